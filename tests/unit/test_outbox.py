"""The outbox alone: anything may be told to it in any order."""

import re
import uuid
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from whodrives.trip.requests import EXPIRED, MOST_REQUESTS, REPEAT_S, WANTED_S, Outbox, request_id
from whodrives.trip.types import MANUAL, Apply, CancelRequest, Delivery, RequestResult, ResultStatus
from whodrives.vehicle.vss import Group, group_of

SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
MIRROR = "Vehicle.Body.Mirrors.DriverSide.Tilt"
PREFERENCES = {SEAT: 120.0, MIRROR: 10.0}
BOTH = frozenset(Group)


def _asked(now_s: float = 100.0) -> tuple[Outbox, Apply]:
    """An outbox that has asked for everything."""
    box = Outbox(["standing"], "s")
    box.assign("d-ann", now_s, "replaced")
    box.request(Group, now_s)
    (apply,) = box.deliver(now_s, "d-ann", PREFERENCES, lambda _: True)
    return box, apply


@given(st.text(max_size=40), st.integers(0, 2**40))
def test_request_ids_are_uuids_of_version_8(session: str, serial: int) -> None:
    """Any UUID library reads them; the same session and serial give the same one."""
    text = request_id(session, serial)
    read = uuid.UUID(text)
    assert str(read) == text
    assert (read.version, read.variant) == (8, uuid.RFC_4122)
    assert text == request_id(session, serial)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)


def test_two_sessions_share_no_request_id() -> None:
    """Also not where session and serial run into each other."""
    ids = {request_id(session, serial) for session in ("a", "a1", "a/1") for serial in range(100)}
    assert len(ids) == 300


def test_what_is_rejected_for_good_and_for_now() -> None:
    """Every part of a reason must be one that passes."""
    for reason, final in [
        ("standing", False),
        (EXPIRED, False),
        ("standing, expired", False),
        ("standing, no such signal", True),
        ("", True),
        (MANUAL, True),
    ]:
        box, apply = _asked()
        box.answered(RequestResult(101.0, apply.request, ResultStatus.REJECTED, reason), 101.0)
        again = box.deliver(110.0, "d-ann", PREFERENCES, lambda _: True)
        assert again == (() if final else (replace(apply, at_s=110.0),)), reason


def test_only_what_may_move_as_a_whole_is_repeated() -> None:
    """A request for seat and mirrors waits for both: half of it would be another request."""
    box, apply = _asked()
    assert box.deliver(110.0, "d-ann", PREFERENCES, lambda g: g is Group.MIRRORS) == ()
    assert box.deliver(111.0, "d-ann", PREFERENCES, lambda _: True) == (replace(apply, at_s=111.0),)


def test_what_is_no_longer_wanted_is_not_sent() -> None:
    """The car has moved, or the minute is over: neither again nor for the first time."""
    box, _ = _asked()
    box.drop()
    assert box.deliver(110.0, "d-ann", PREFERENCES, lambda _: True) == ()
    box, _ = _asked()
    late_s = 100.0 + WANTED_S + 0.1
    assert box.deliver(late_s, "d-ann", PREFERENCES, lambda _: True) == ()
    box = Outbox(["standing"], "s")
    box.request(Group, 100.0)
    assert box.deliver(late_s, "d-ann", PREFERENCES, lambda _: True) == ()


def test_a_rejected_copy_of_what_was_accepted_says_nothing() -> None:
    """The ECU acts on the first copy and refuses the second: it is still on its way."""
    box, apply = _asked()
    for status, reason in [(ResultStatus.ACCEPTED, ""), (ResultStatus.REJECTED, EXPIRED)]:
        box.answered(RequestResult(101.0, apply.request, status, reason), 101.0)
    assert box.shown == (Delivery.ACCEPTED, "")


def test_a_late_word_of_a_hand_ends_the_request_that_came_after() -> None:
    """The answer to a request that was replaced says `manual`: the new one is cancelled, too."""
    box, apply = _asked()
    box.assign("d-ben", 101.0, "replaced")
    box.request(Group, 101.0)
    (second,) = box.deliver(101.0, "d-ben", PREFERENCES, lambda _: True)
    late = RequestResult(102.0, apply.request, ResultStatus.ABORTED, MANUAL)
    assert box.answered(late, 102.0) == (CancelRequest(102.0, second.request, MANUAL),)
    assert box.waiting == ()


def test_memory_is_bounded_and_keeps_what_lives() -> None:
    """The head unit may change its mind a thousand times in one trip."""
    box, _ = _asked()
    for number in range(1000):
        driver = f"d-{number}"
        box.assign(driver, 100.0, "replaced")
        box.request(Group, 100.0)
        (apply,) = box.deliver(100.0, driver, PREFERENCES, lambda _: True)
    assert len(box.memory.requests) == MOST_REQUESTS
    assert box.knows(apply.request)


class AnyOutbox(RuleBasedStateMachine):
    """What is sent is checked against a model that only knows what was told."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.box = Outbox(["standing"], "s")
        self.driver: str | None = None
        self.wished_s = float("-inf")
        self.sent: dict[str, Apply] = {}
        self.over: set[str] = set()
        self.accepted: set[str] = set()
        self.touched: set[Group] = set()
        self.deaths = 0

    @rule(seconds=st.sampled_from([0.0, 1.0, REPEAT_S, 30.0]))
    def pass_time(self, seconds: float) -> None:
        """Nothing happens."""
        self.now_s += seconds
        self.box.age(self.now_s)

    @rule(driver=st.sampled_from(["d-ann", "d-ben", None]))
    def settle(self, driver: str | None) -> None:
        """Somebody drives."""
        self._ended(self.box.assign(driver, self.now_s, "replaced"))
        others = {name for name, apply in self.sent.items() if apply.driver != driver}
        assert others <= self.over
        self.driver = driver
        if driver is not None:
            self.box.request(Group, self.now_s)
            self.wished_s = self.now_s

    @rule()
    def drop(self) -> None:
        """The car moves off."""
        self.box.drop()
        self.wished_s = float("-inf")

    @rule()
    def cancel(self) -> None:
        """Stop."""
        self._ended(self.box.cancel(self.now_s, "cancelled"))
        self.wished_s = float("-inf")
        assert set(self.sent) <= self.over

    @rule(group=st.sampled_from(Group))
    def touch(self, group: Group) -> None:
        """A hand."""
        self._ended(self.box.override({group}, self.now_s))
        self.touched.add(group)

    @rule()
    def change(self) -> None:
        """The preferences are others now."""
        self._ended(self.box.reconcile({SEAT: 1.0, MIRROR: 10.0}, self.now_s))
        assert {n for n, apply in self.sent.items() if SEAT in apply.signals} <= self.over

    @precondition(lambda self: self.sent)
    @rule(
        data=st.data(),
        status=st.sampled_from(ResultStatus),
        reason=st.sampled_from(["standing", EXPIRED, "no", MANUAL]),
    )
    def answer(self, data: st.DataObject, status: ResultStatus, reason: str) -> None:
        """An ECU says something of something."""
        name = data.draw(st.sampled_from(list(self.sent)))
        bad = status in (ResultStatus.REJECTED, ResultStatus.ABORTED)
        before = {r.request: r for r in self.box.memory.requests}.get(name)
        self._ended(self.box.answered(RequestResult(self.now_s, name, status, reason), self.now_s))
        after = {r.request: r for r in self.box.memory.requests}.get(name)
        if name in self.over:
            assert before == after
        if before is not None and bad and reason == MANUAL:
            self.touched |= _groups(self.sent[name])
        if status is ResultStatus.ACCEPTED and name not in self.over:
            self.accepted.add(name)
        rejected = status is ResultStatus.REJECTED and reason in ("no", MANUAL)
        if status in (ResultStatus.COMPLETED, ResultStatus.ABORTED) or (
            rejected and name not in self.accepted
        ):
            self.over.add(name)

    @rule(may_move=st.frozensets(st.sampled_from(Group)) | st.just(BOTH))
    def deliver(self, may_move: frozenset[Group]) -> None:
        """Whatever is sent now may be sent now."""
        if self.driver is None:
            return
        for apply in self.box.deliver(
            self.now_s, self.driver, PREFERENCES, lambda group: group in may_move
        ):
            assert apply.driver == self.driver
            assert _groups(apply) <= may_move - self.touched
            assert self.now_s - self.wished_s <= WANTED_S
            assert apply.request not in self.over | self.accepted
            if before := self.sent.get(apply.request):
                assert apply == replace(before, at_s=self.now_s)
                assert self.now_s - before.at_s >= REPEAT_S
            for other in set(self.sent) - self.over - {apply.request}:
                assert not _groups(apply) & _groups(self.sent[other])
            self.sent[apply.request] = apply

    @rule()
    def die(self) -> None:
        """Another outbox takes over the memory, and nothing shows it."""
        self.deaths += 1
        shown, memory = self.box.shown, self.box.memory
        self.box = Outbox(["standing"], f"s{self.deaths}", memory)
        assert (self.box.shown, self.box.memory) == (shown, memory)

    def _ended(self, withdrawn: tuple[CancelRequest, ...]) -> None:
        names = [each.request for each in withdrawn]
        assert not set(names) & self.over
        self.over |= set(names)

    @invariant()
    def nothing_touched_waits(self) -> None:
        """A hand counts at once."""
        assert not set(self.box.waiting) & self.touched


def _groups(apply: Apply) -> set[Group]:
    return {group_of(path) for path in apply.signals}


TestAnyOutbox = AnyOutbox.TestCase
TestAnyOutbox.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
