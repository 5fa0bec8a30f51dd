"""Requests to the ECUs in one trip: ids, repetition, answers, and cancellation.

Owns the life of a request. Must not know why somebody drives, how messages travel, or what time it
is. One request covers one or more groups (seat, mirrors); no group is in two live requests. A
request is *live* from its first sending until it is final: a delayed copy may still move something.

| request           | when                                                   | then               |
|-------------------|--------------------------------------------------------|--------------------|
| group waits       | it may move, within WANTED_S, not overridden           | requested, new id  |
| group waits       | no longer wanted                                       | -                  |
| requested         | the ECU accepts                                        | accepted           |
| requested         | the ECU rejects, for something that passes             | rejected           |
| requested         | the ECU rejects, for anything else                     | rejected, final    |
| req. or rejected  | REPEAT_S since it was sent, may move, within WANTED_S  | requested, same id |
| requested         | REPEAT_S since it was sent, no longer wanted           | unanswered         |
| live              | the ECU completes or aborts                            | so, final          |
| live              | cancelled, replaced, overridden, changed, trip over    | cancelled: aborted |

A final request never changes. *No longer wanted*: WANTED_S have passed, or the car has moved. An
answer to an unanswered request is recorded, but nothing is sent again. After an answer with the
reason `manual`, or a pressed switch, the group is *overridden*: it is not requested again in this
trip (`OutboxSnapshot.touched`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType

from whodrives.trip.types import (
    MANUAL,
    Apply,
    CancelRequest,
    Delivery,
    OutboxSnapshot,
    Request,
    RequestResult,
    ResultStatus,
)
from whodrives.vehicle.vss import SIGNALS, Group, group_of

WANTED_S = 60.0
"""How long preferences wait for the car. A seat that moves later would surprise the driver."""


REPEAT_S = 4.0
"""Interval of repetition: the 3 s of a request's validity and 1 s of clock difference to the ECU,
so that no two copies are valid at the same time."""


MOST_REQUESTS = 32
"""Maximum requests kept per trip; the oldest final ones are dropped first."""


EXPIRED = "expired"
"""An ECU's reason for a request that arrived after its expiry; it is sent again."""


_DELIVERY_OF = {
    ResultStatus.ACCEPTED: Delivery.ACCEPTED,
    ResultStatus.COMPLETED: Delivery.COMPLETED,
    ResultStatus.REJECTED: Delivery.REJECTED,
    ResultStatus.ABORTED: Delivery.ABORTED,
}


_PROGRESS = (
    Delivery.REQUESTED,
    Delivery.ACCEPTED,
    Delivery.UNANSWERED,
    Delivery.REJECTED,
    Delivery.ABORTED,
    Delivery.COMPLETED,
)


def request_id(session: str, serial: int) -> str:
    """The id number `serial` of a session: a version 8 UUID (RFC 9562), deterministic."""
    digits = sha256(f"{session}/{serial}".encode()).hexdigest()
    variant = "89ab"[int(digits[16], 16) % 4]
    parts = (digits[:8], digits[8:12], "8" + digits[13:16], variant + digits[17:20], digits[20:32])
    return "-".join(parts)


class Outbox:
    """The requests of one trip.

    Args:
        passing: transient reasons of a rejection, after which a request is sent again; EXPIRED is
            always one.
        session: unique per daemon; request ids are derived from it.
        memory: the requests of a previous daemon in this trip.
    """

    def __init__(
        self, passing: Iterable[str], session: str = "", memory: OutboxSnapshot | None = None
    ) -> None:
        self._passing = frozenset({EXPIRED, *passing})
        self._session = session
        self._serial = 0
        self._snapshot = memory or OutboxSnapshot()

    @property
    def memory(self) -> OutboxSnapshot:
        """The state to persist."""
        return self._snapshot

    @property
    def waiting(self) -> tuple[Group, ...]:
        """The groups that wait for the car."""
        return tuple(Group(name) for name in self._snapshot.waiting)

    @property
    def live(self) -> int:
        """Number of requests without a final answer."""
        return len(self._live())

    @property
    def moved(self) -> Mapping[str, float]:
        """What ECUs accepted or completed in this trip: VSS path to the requested value."""
        acted_on = (Delivery.ACCEPTED, Delivery.COMPLETED)
        done = [r.signals for r in self._snapshot.requests if r.delivery in acted_on]
        return {path: value for signals in done for path, value in signals.items()}

    @property
    def under_way(self) -> frozenset[str]:
        """The VSS paths of all live requests: what may move because of a request."""
        return frozenset(path for request in self._live() for path in request.signals)

    @property
    def asked(self) -> bool:
        """Whether anything was requested or cancelled since the driver was assigned."""
        return self._snapshot.cancelled or any(r.current for r in self._snapshot.requests)

    @property
    def shown(self) -> tuple[Delivery, str]:
        """Delivery of the preferences and its reason, of the least advanced request."""
        if self._snapshot.waiting:
            return Delivery.WAITING, ""
        current = [r for r in self._snapshot.requests if r.current]
        if not current:
            return (
                (Delivery.ABORTED, "cancelled") if self._snapshot.cancelled else (Delivery.NONE, "")
            )
        least = min(current, key=lambda r: _PROGRESS.index(r.delivery))
        return least.delivery, least.reason

    def clear(self) -> None:
        """Start a trip with nothing requested and nothing overridden."""
        self._snapshot = OutboxSnapshot()

    def assign(self, driver: str | None, now_s: float, reason: str) -> tuple[CancelRequest, ...]:
        """Serve this driver, or nobody, from now on; cancel the requests for others."""
        others = [
            r for r in self._live() if r.driver != driver or r.delivery is Delivery.UNANSWERED
        ]
        cancels = self._end(others, now_s, reason)
        requests = tuple(replace(r, current=self._is_live(r)) for r in self._snapshot.requests)
        self._snapshot = replace(
            self._snapshot, waiting=(), wanted_until_s=None, cancelled=False, requests=requests
        )
        return cancels

    def request(self, groups: Iterable[Group], now_s: float) -> None:
        """Let these groups wait for the car, unless they are overridden or in a live request."""
        taken = {*self._snapshot.touched, *(g for r in self._live() for g in _groups(r))}
        wanted = set(groups)
        waiting = tuple(g for g in Group if g in wanted and g not in taken)
        self._snapshot = replace(self._snapshot, waiting=waiting, wanted_until_s=now_s + WANTED_S)

    def drop(self) -> None:
        """Request nothing more, for example because the car has moved."""
        if self._snapshot.waiting or self._snapshot.wanted_until_s is not None:
            self._snapshot = replace(self._snapshot, waiting=(), wanted_until_s=None)

    def cancel(self, now_s: float, reason: str) -> tuple[CancelRequest, ...]:
        """Cancel live requests and drop waiting groups until a driver is assigned again."""
        self._snapshot = replace(self._snapshot, cancelled=True)
        self.drop()
        return self._end(self._live(), now_s, reason)

    def override(self, groups: Iterable[Group], now_s: float) -> tuple[CancelRequest, ...]:
        """Cancel requests for groups that a person moves, and do not request them again.

        Other groups of a cancelled request wait again.
        """
        overridden = set(self._snapshot.touched) | set(groups)
        ended = [r for r in self._live() if overridden & _groups(r)]
        left = {g for r in ended if r.current for g in _groups(r)} - overridden
        cancels = self._end(ended, now_s, MANUAL)
        left = left if self._wanted(now_s) else set()
        waiting = tuple(g for g in Group if g in left | set(self._snapshot.waiting) - overridden)
        names = tuple(g for g in Group if g in overridden)
        self._snapshot = replace(self._snapshot, touched=names, waiting=waiting)
        return cancels

    def reconcile(
        self, preferences: Mapping[str, float], now_s: float
    ) -> tuple[CancelRequest, ...]:
        """Cancel requests that differ from changed preferences; drop groups without any."""
        changed = [
            r for r in self._live() if any(preferences.get(p) != v for p, v in r.signals.items())
        ]
        kept = {group_of(path) for path in preferences}
        self._snapshot = replace(
            self._snapshot, waiting=tuple(g for g in self.waiting if g in kept)
        )
        return self._end(changed, now_s, "changed")

    def knows(self, request: str) -> bool:
        """Whether this id is a request of this trip."""
        return any(r.request == request for r in self._snapshot.requests)

    def answered(self, answer: RequestResult, now_s: float) -> tuple[CancelRequest, ...]:
        """Record an ECU's answer; an unknown request changes nothing."""
        found = next((r for r in self._snapshot.requests if r.request == answer.request), None)
        if found is None:
            return ()
        refused = answer.status in (ResultStatus.REJECTED, ResultStatus.ABORTED)
        # An accepted request is being carried out; a rejection can only concern a repeated copy.
        stale = answer.status is ResultStatus.REJECTED and found.delivery is Delivery.ACCEPTED
        if self._is_live(found) and not stale:
            reason = answer.reason if refused else ""
            self._put(replace(found, delivery=_DELIVERY_OF[answer.status], reason=reason))
        by_hand = refused and answer.reason == MANUAL
        return self.override(_groups(found), now_s) if by_hand else ()

    def deliver(
        self,
        now_s: float,
        driver: str,
        preferences: Mapping[str, float],
        may_move: Callable[[Group], bool],
    ) -> tuple[Apply, ...]:
        """The requests to send now: new ones, and repetitions that are due.

        Args:
            now_s: current time.
            driver: the assigned driver.
            preferences: VSS path to value, known paths only.
            may_move: whether the interlock permits a group now.
        """
        if not self._wanted(now_s):
            return ()
        again = [r for r in self._live() if self._repeats(r, now_s, may_move)]
        ready = {group for group in self.waiting if may_move(group)}
        signals = {p: v for p, v in preferences.items() if group_of(p) in ready}
        if ready:
            waiting = tuple(g for g in self.waiting if g not in ready)
            self._snapshot = replace(self._snapshot, waiting=waiting)
        if signals:
            name = request_id(self._session, self._serial)
            self._serial += 1
            again.append(
                Request(name, driver, MappingProxyType(signals), Delivery.REQUESTED, "", now_s)
            )
        return tuple(self._sent(r, now_s) for r in again)

    def age(self, now_s: float) -> None:
        """Advance the time: stop waiting after WANTED_S, and mark requests without an answer."""
        if not self._wanted(now_s):
            self.drop()
            for r in self._live():
                if r.delivery is Delivery.REQUESTED and now_s - r.asked_at_s >= REPEAT_S:
                    self._put(replace(r, delivery=Delivery.UNANSWERED))

    def _wanted(self, now_s: float) -> bool:
        until_s = self._snapshot.wanted_until_s
        return until_s is not None and now_s <= until_s

    def _passes(self, reason: str) -> bool:
        return {part.strip() for part in reason.split(",")} <= self._passing

    def _is_live(self, request: Request) -> bool:
        if request.delivery is Delivery.REJECTED:
            return self._passes(request.reason)
        return request.delivery not in (Delivery.COMPLETED, Delivery.ABORTED)

    def _live(self) -> list[Request]:
        return [r for r in self._snapshot.requests if self._is_live(r)]

    def _repeats(self, request: Request, now_s: float, may_move: Callable[[Group], bool]) -> bool:
        return (
            request.delivery in (Delivery.REQUESTED, Delivery.REJECTED)
            and now_s - request.asked_at_s >= REPEAT_S
            and all(may_move(group) for group in _groups(request))
        )

    def _sent(self, request: Request, now_s: float) -> Apply:
        self._put(replace(request, delivery=Delivery.REQUESTED, reason="", asked_at_s=now_s))
        return Apply(now_s, request.request, request.driver, request.signals)

    def _end(
        self, ended: Iterable[Request], now_s: float, reason: str
    ) -> tuple[CancelRequest, ...]:
        cancels = []
        for request in ended:
            self._put(replace(request, delivery=Delivery.ABORTED, reason=reason))
            cancels.append(CancelRequest(now_s, request.request, reason))
        return tuple(cancels)

    def _put(self, changed: Request) -> None:
        """Update a request, or add it."""
        requests = [changed if r.request == changed.request else r for r in self._snapshot.requests]
        if changed not in requests:
            requests.append(changed)
        while len(requests) > MOST_REQUESTS:
            requests.remove(next(r for r in requests if not self._is_live(r)))
        self._snapshot = replace(self._snapshot, requests=tuple(requests))


def _groups(request: Request) -> set[Group]:
    return {group_of(path) for path in request.signals if path in SIGNALS}
