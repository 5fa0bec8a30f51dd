"""The connection to the broker, kept up for ever."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from paho.mqtt.enums import MQTTErrorCode

from whodrives import clock
from whodrives.adaptation.types import Guests
from whodrives.config.schema import Mqtt, Vehicle
from whodrives.core.events import Event, Health, Input
from whodrives.errors import BusError, PayloadError
from whodrives.mqtt.access import broker_access
from whodrives.mqtt.arrivals import Arrivals, CommandMemory
from whodrives.mqtt.decode import Decoder
from whodrives.mqtt.ecosystems import SeatAdjuster, home_assistant
from whodrives.mqtt.encode import Message, Vitals, encode, encode_metrics, encode_offline
from whodrives.mqtt.link import ECHO_LIMIT_S, MAX_UNACKNOWLEDGED, Link
from whodrives.mqtt.payloads import Counters
from whodrives.mqtt.takeover import PROBATION_S, RIVAL_S, STANDS_BY, TAKEN_FOR_A_MOMENT, Place
from whodrives.trip.types import Apply, DriverState, LinkState, UnmatchedResult
from whodrives.vehicle.vss import SEAT_POSITION

log = logging.getLogger(__name__)


MAX_LAG_S = 1.0
"""An `Apply` older than this is dropped: the state of the car may have changed since."""


STATE_ROOM = MAX_UNACKNOWLEDGED // 2
"""With less room than this, a state waits: a car that changes all the time would otherwise take the
room of answers and requests, and the connection would look as if the broker were stuck."""


CONNECT_LIMIT_S = 15.0
"""Maximum time for a connection to come up."""


METRICS_S = 10.0
"""Interval of `metrics`."""


RETRY_FIRST_S = 1.0
"""First retry interval; it doubles up to RETRY_LAST_S."""


RETRY_LAST_S = 60.0


class Bus:
    """The connection to the broker, kept up for ever.

    Args:
        settings: the broker and the credentials.
        vehicle: the car: its name in the topics, its signals and its VSS version.
        put: takes inputs; called from paho's thread and from `poll`.
        vitals: gives the daemon's part of `metrics`; called from `poll`.
        memory: persists the ids of accepted commands; called from paho's thread.

    Call all methods from one thread. `counters` may be read at any time.

    Raises:
        BusError: the settings can never work; the text names the setting and the fix.
    """

    def __init__(
        self,
        settings: Mqtt,
        vehicle: Vehicle,
        put: Callable[[Input], None],
        vitals: Callable[[], Vitals] = Vitals,
        memory: CommandMemory | None = None,
    ) -> None:
        self.counters = Counters()
        self._settings = settings
        broker_access(settings)
        self._vehicle = vehicle
        self._put = put
        self._vitals = vitals
        # The broker's access list needs TLS to know who writes.
        decoder = Decoder(vehicle.id, secure=settings.tls is not None)
        adjuster = _adjuster(settings, vehicle)
        self._arrivals = Arrivals(decoder, put, self.counters, adjuster, memory)
        self._measured_s = -math.inf
        self._link: Link | None = None
        self._connected = False
        self._lost = False
        self._retry_at_s = math.inf
        self._retry_s = RETRY_FIRST_S
        self._place = Place()
        self._at_work = False
        self._rival, self._rival_s = "", -math.inf
        self._status: Health | None = None
        # A daemon that died may have left a retained driver: the first connection clears it.
        self._driver = DriverState(0.0)
        self._guests = Guests(0.0)
        self._unsent: set[type[Event]] = set()

    def start(self) -> None:
        """Start to connect; `poll` retries for ever if the broker is away."""
        if self._settings.tls is None:
            log.warning("event=plain_mqtt host=%s port=%d", *self._settings.address)
        # Not earlier: the previous daemon may have accepted a command a moment ago.
        self._arrivals.recall(clock.now_s())
        self._open()

    @property
    def room(self) -> int:
        """How many messages may be sent before the broker has acknowledged one; 0: it is away."""
        if self._link is None or not self._connected or not self._link.up:
            return 0
        return max(0, MAX_UNACKNOWLEDGED - self._link.unacknowledged)

    def poll(self, now_s: float) -> None:
        """Handle changes of the connection, and reconnect when it is due.

        Call about twice a second, and after each input: a connection that changes puts one.
        """
        self._arrivals.tend(now_s)
        link = self._link
        if link is None:
            if now_s >= self._retry_at_s:
                self._open()
        elif link.ended is not None:
            self._gone(link.ended, now_s)
        elif link.echo(now_s):
            self._deaf(link, now_s)
        elif link.up and not self._connected:
            self._arrived(now_s)
        elif not link.up:
            if self._place.missed(now_s) or now_s - link.started_s > CONNECT_LIMIT_S:
                link.end("the broker does not answer")
        elif self._connected:
            self._go_to_work(link, now_s)
            self._measure(now_s)
            self._publish_states(self._unsent)
            if self._rival and now_s - self._rival_s > RIVAL_S:
                self._rival = ""
                self._put(LinkState(now_s, connected=True))

    def publish(self, event: Event) -> bool:
        """Publish an event if the broker is connected; return whether it was sent.

        The last `Health`, `DriverState` and `Guests` are published again after each connect. While
        the broker owes many acknowledgements, they wait for `poll`, and a newer one replaces an
        older one. Other events that cannot be sent at once are never sent. Events without a message
        are ignored; events that the contract does not allow are dropped.
        """
        if isinstance(event, Apply) and clock.now_s() - event.at_s > MAX_LAG_S:
            self.counters.dropped += 1
            log.warning("event=apply_dropped reason='more than %.0f s late'", MAX_LAG_S)
            return False
        if isinstance(event, Apply) and not self._at_work:
            self.counters.dropped += 1
            return False
        if isinstance(event, Health):
            self._status = event
        elif isinstance(event, DriverState):
            self._driver = event
        elif isinstance(event, Guests):
            self._guests = event
        elif isinstance(event, UnmatchedResult):
            self._arrivals.count_unmatched()
        state = isinstance(event, Health | DriverState | Guests)
        if state and self._connected and self.room < STATE_ROOM:
            self._unsent.add(type(event))
            return False
        return self._publish(event)

    def _publish(self, event: Event) -> bool:
        try:
            evidence = self._settings.evidence
            message = encode(event, self._vehicle, _epoch_s(), evidence=evidence)
        except PayloadError as error:
            self.counters.dropped += 1
            log.error("event=message_unfit error=%r", str(error))  # noqa: TRY400 (no traceback)
            return False
        sent = message is not None and self._send(message)
        if sent and isinstance(event, Apply) and (asked := self._arrivals.asked(event)):
            self._send(asked)
        return sent

    def stop(self) -> None:
        """Publish `offline` and disconnect; takes less than a second."""
        self._leave()
        # No message arrives any more.
        self._arrivals.log_suppressed()

    def _leave(self) -> None:
        link = self._link
        self._retry_at_s = math.inf
        if link is None:
            return
        if self._connected and link.ended is None:
            self._publish(DriverState(0.0))
            self._publish(Guests(0.0))
            farewell = link.send(encode_offline(self._vehicle.id, "stopped"))
            if farewell.rc is MQTTErrorCode.MQTT_ERR_SUCCESS:
                farewell.wait_for_publish(0.5)
            link.end("stopped")
            link.over.wait(0.3)
        self._link, self._connected, self._at_work = None, False, False
        link.end("stopped")
        link.release()

    def _open(self) -> None:
        # Read again each time: the password or certificate may have been replaced.
        try:
            access = broker_access(self._settings)
        except BusError as error:
            self._gone(str(error), clock.now_s())
        else:
            self._link = Link(self._settings, self._vehicle.id, access, self._arrivals)

    def _arrived(self, now_s: float) -> None:
        self._connected, self._retry_s = True, RETRY_FIRST_S
        self.counters.connections += 1
        if self._lost or self.counters.connections == 1:
            log.info("event=broker_connected host=%s port=%d", *self._settings.address)
        self._lost = False
        self._publish_states({Health, DriverState, Guests})
        for message in home_assistant(self._vehicle.id) if self._settings.home_assistant else ():
            self._send(message)
        self._measured_s = -math.inf
        self._measure(now_s)
        self._go_to_work(self._link, now_s)

    def _publish_states(self, kinds: Collection[type[Event]]) -> None:
        """Publish the last state of each of these kinds, as far as there is room."""
        for event in (self._status, self._driver, self._guests):
            if type(event) in kinds and event is not None and self.room >= STATE_ROOM:
                self._unsent.discard(type(event))
                self._publish(event)

    def _go_to_work(self, link: Link | None, now_s: float) -> None:
        """Permit requests once no other daemon can have this connection's identity."""
        if link is None or self._at_work or not self._place.admits(link.up_s, now_s):
            return
        self._at_work = True
        if now_s - self._rival_s <= PROBATION_S:
            self._rival = TAKEN_FOR_A_MOMENT
        elif self._rival == STANDS_BY:
            self._rival = ""
        self._put(LinkState(now_s, connected=True, rival=self._rival))

    def _deaf(self, link: Link, now_s: float) -> None:
        """End a connection that delivers nothing; publish the reason first.

        It ends with DISCONNECT, so that the last will does not replace that status.
        """
        fix = f"look for a client that floods it, and let our user write and read {link.echo_topic}"
        reason = f"the broker has delivered nothing for {ECHO_LIMIT_S:.0f} s; {fix}"
        if self._connected:
            known = self._status or Health(now_s)
            status = replace(known, at_s=now_s, reasons=(*known.reasons, f"broker: {reason}"))
            if (message := encode(status, self._vehicle, _epoch_s())) is not None:
                self._send(message)
        link.end(reason)

    def _gone(self, reason: str, now_s: float) -> None:
        pause_s = None
        if self._link is not None:
            pause_s = self._place.lost(self._link.thrown_out_s, certain=self._link.taken_over)
            self._link.end(reason)
            self._link.release()
        self._link, self._connected, self._at_work = None, False, False
        if pause_s is not None:
            self._left_place(pause_s, now_s)
            return
        level = logging.DEBUG if self._lost else logging.WARNING
        log.log(level, "event=broker_lost reason=%r retry_s=%.0f", reason, self._retry_s)
        if not self._lost:
            self._put(LinkState(now_s, connected=False, reason=reason))
        self._lost = True
        self._retry_at_s = now_s + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_LAST_S)

    def _left_place(self, pause_s: float, now_s: float) -> None:
        """Report a client with our identity; reconnect after a pause, or at once."""
        # Not a rival yet: until the immediate reconnect, the broker may have been stuck instead.
        self._rival, self._rival_s = STANDS_BY if pause_s else "", now_s
        reason = STANDS_BY if pause_s else TAKEN_FOR_A_MOMENT
        log.warning("event=thrown_out retry_s=%.0f reason=%r", pause_s, reason)
        self._put(LinkState(now_s, connected=False, reason=reason, rival=self._rival))
        self._lost = True
        self._retry_at_s = now_s + pause_s
        if not pause_s:
            self._open()

    def _measure(self, now_s: float) -> None:
        """Publish `metrics` when it is due."""
        if now_s - self._measured_s >= METRICS_S:
            self._measured_s = now_s
            vitals = self._vitals()
            self._send(encode_metrics(self.counters, vitals, self._vehicle.id, time.time()))

    def _send(self, message: Message) -> bool:
        link = self._link
        if link is not None and self._connected and link.ended is None:
            sent = link.send(message).rc is MQTTErrorCode.MQTT_ERR_SUCCESS
        else:
            sent = False
        self.counters.published += sent
        self.counters.dropped += not sent
        return sent


def _adjuster(settings: Mqtt, vehicle: Vehicle) -> SeatAdjuster | None:
    travel = vehicle.signals.get(SEAT_POSITION)
    return SeatAdjuster(travel) if settings.velocitas and travel else None


def _epoch_s() -> float:
    return time.time() - clock.now_s()
