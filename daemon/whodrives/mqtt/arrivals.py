"""Incoming messages: decoded, rate-limited, counted."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.reasoncodes import ReasonCode

from whodrives import clock
from whodrives.core.events import Input, RefusedCommand
from whodrives.errors import PayloadError
from whodrives.loglimit import LogLimit
from whodrives.mqtt.decode import CarClockError, CommandError, Decoder, Incoming
from whodrives.mqtt.ecosystems import SeatAdjuster
from whodrives.mqtt.encode import Message
from whodrives.mqtt.payloads import Counters
from whodrives.mqtt.rates import RESULT_RATE, Bucket
from whodrives.trip.types import Apply, RequestResult, Tick
from whodrives.vehicle.state import Misdated

log = logging.getLogger(__name__)


_ANSWERS = ("/preferences/result", *SeatAdjuster.topics)
"""Topics of answers to requests; a retained answer is stale and ignored."""


class CommandMemory(Protocol):
    """Persists the ids of accepted commands across restarts; never raises."""

    def recall(self, now_s: float) -> Mapping[str, float]:
        """The ids of recent commands, each with its time of arrival (monotonic, s)."""

    def keep(self, obeyed: Mapping[str, float]) -> None:
        """Replace the stored ids."""


class Arrivals:
    """The messages of all connections, one connection after another; used by paho's threads.

    It outlives them: a command that was accepted must not be accepted again after a reconnect.

    Args:
        decoder: reads the messages.
        put: takes the inputs.
        counters: where messages are counted.
        adjuster: Velocitas' seat adjuster, if one is to be asked.
        memory: keeps the ids of obeyed commands for the next daemon.
    """

    def __init__(
        self,
        decoder: Decoder,
        put: Callable[[Input], None],
        counters: Counters,
        adjuster: SeatAdjuster | None,
        memory: CommandMemory | None,
    ) -> None:
        self._decoder = decoder
        self._adjuster = adjuster
        self._put = put
        self._counters = counters
        self._log_limit = LogLimit(burst=1)
        self._adjusted = Bucket(RESULT_RATE)
        self._memory = memory
        # The thread of an ended connection may deliver its last message while the next one starts.
        self._lock = threading.Lock()

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic filters to subscribe to."""
        return self._decoder.topics + (self._adjuster.topics if self._adjuster else ())

    def asked(self, event: Apply) -> Message | None:
        """The seat adjuster's message for a request; None without a seat adjuster."""
        with self._lock:
            return self._adjuster.encode(event) if self._adjuster else None

    def take(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        """Decode a message and pass it on, or count why not."""
        with self._lock:
            self._take(message.topic, bytes(message.payload), retained=message.retain)

    def _take(self, topic: str, payload: bytes, *, retained: bool) -> None:
        self._counters.received += 1
        if retained and ("/command/" in topic or topic.endswith(_ANSWERS)):
            self._counters.ignored += 1
            return
        now_s, wall_s = clock.now_s(), time.time()
        obeyed, merged = self._decoder.obeyed, self._decoder.merged
        try:
            item = self._decoded(topic, payload, now_s, wall_s)
        except PayloadError as error:
            self._refuse(topic, error, now_s)
            return
        finally:
            self._counters.replayed = self._decoder.replayed
            self._counters.misdated = self._decoder.misdated
        if self._decoder.merged > merged and self._log_limit.admits("reports_too_fast", now_s):
            log.warning("event=reports_too_fast topic=%r", topic)
        if self._memory is not None and self._decoder.obeyed.keys() - obeyed.keys():
            # Persist before passing on, so that a daemon that dies does not accept a command twice.
            self._memory.keep(self._decoder.obeyed)
        if item is not None:
            self._put(item)

    def _decoded(
        self, topic: str, payload: bytes, now_s: float, wall_s: float
    ) -> Incoming | RequestResult | None:
        if self._adjuster and topic in self._adjuster.topics:
            if too_fast := self._adjusted.excess(now_s):
                raise PayloadError(f"{topic}: {too_fast}", cause="rate")
            return self._adjuster.decode(topic, payload, now_s)
        return self._decoder.decode(topic, payload, now_s, wall_s)

    def _refuse(self, topic: str, error: PayloadError, now_s: float) -> None:
        self._counters.refused += 1
        if isinstance(error, CarClockError):
            self._put(Misdated(now_s, error.ahead_s))
        if isinstance(error, CommandError):
            self._put(RefusedCommand(now_s, error.command, error.reason))
        if self._log_limit.admits(f"{topic} ({error.cause})", now_s):
            log.warning("event=payload_refused error=%r", str(error))

    def tend(self, now_s: float) -> None:
        """Pass on a merged report, and log the suppressed lines of the windows that are over."""
        with self._lock:
            report = self._decoder.merged_report(now_s)
        if report is not None:
            self._put(report)
        self.log_suppressed(now_s)

    def log_suppressed(self, now_s: float = math.inf) -> None:
        """Log the number of suppressed lines of each window that is over by `now_s`."""
        with self._lock:
            over = self._log_limit.over(now_s)
        for key, count in over:
            log.warning("event=suppressed of=%r lines=%d", key, count)

    def recall(self, now_s: float) -> None:
        """Load the ids of the commands that the previous daemon accepted."""
        if self._memory is not None:
            with self._lock:
                self._decoder.obeyed |= self._memory.recall(now_s)

    def wake(self) -> None:
        """Put a tick, so that the loop polls the bus: the connection has changed."""
        self._put(Tick(clock.now_s()))

    def count_unmatched(self) -> None:
        """Count a result that matches no request of this trip."""
        with self._lock:
            self._counters.refused += 1

    def acknowledged(self, code: ReasonCode) -> None:
        """Count and log a message that the broker did not accept."""
        if code.is_failure:
            level = logging.DEBUG if self._counters.denied else logging.WARNING
            self._counters.denied += 1
            log.log(level, "event=publish_denied code=%r", str(code))
