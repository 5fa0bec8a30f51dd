"""One log line for each event; never a name, sound or embedding."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Iterator

from whodrives import clock
from whodrives.adaptation.types import Guests
from whodrives.core.events import Event, Health
from whodrives.enrolment.types import EnrolmentState
from whodrives.loglimit import LogLimit
from whodrives.service.systemd import notify
from whodrives.trip.types import Apply, CancelRequest, CommandResult, DriverState, UnmatchedResult
from whodrives.voice.types import Recognition

log = logging.getLogger(__name__)


LINES_A_MINUTE = 60
"""Log lines of one kind (`event=...`) that are written in a minute; the rest are counted."""


class LogFilter(logging.Filter):
    """Bounds how often a line of one kind is logged, whatever multiplies it."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = LogLimit(LINES_A_MINUTE)
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        with self._lock:
            return self._limit.admits(str(record.msg).split()[0], clock.now_s())

    def tend(self, now_s: float = math.inf) -> None:
        """Log how many lines were suppressed, in the minutes that are over by `now_s`."""
        with self._lock:
            over = self._limit.over(now_s)
        for kind, lines in over:
            log.warning("event=suppressed of=%r lines=%d", kind, lines)


@contextlib.contextmanager
def bounded_log() -> Iterator[LogFilter]:
    """Put the filter before everything that is written, for as long as the block runs."""
    made = LogFilter()
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(made)
    try:
        yield made
    finally:
        made.tend()
        for handler in handlers:
            handler.removeFilter(made)


def report(event: Event, now_s: float) -> None:
    """Log an event in one line, and show systemd our health; never a name, sound or embedding."""
    if isinstance(event, Recognition):
        verdict, evidence = event.verdict, event.verdict.evidence
        best = f"{evidence.matches[0].llr:.2f}" if evidence.matches else "-"
        log.info(
            "event=recognition outcome=%s driver=%s speech_s=%.2f llr=%s delay_ms=%.0f",
            *(verdict.outcome, verdict.driver or "-", evidence.speech_s, best),
            1000 * (now_s - event.at_s),
        )
    elif isinstance(event, Apply):
        log.info(
            "event=apply driver=%s signals=%d request=%s",
            *(event.driver, len(event.signals), event.request),
        )
    elif isinstance(event, CancelRequest):
        log.info("event=cancel request=%s reason=%s", event.request, event.reason)
    elif isinstance(event, CommandResult):
        log.info("event=command command=%s reason=%s", event.command, event.reason or "-")
    elif isinstance(event, EnrolmentState):
        codes = ",".join(problem.code for problem in event.problems) or "-"
        facts = event.stage, event.speech_s, codes
        log.info("event=enrolment stage=%s speech_s=%.1f problems=%s", *facts)
    elif isinstance(event, UnmatchedResult):
        log.info("event=unmatched_result request=%s", event.request)
    elif isinstance(event, Health):
        state = "degraded" if event.reasons else "online"
        reasons = "; ".join(event.reasons)
        level = logging.WARNING if event.reasons else logging.INFO
        log.log(level, "event=health state=%s reasons=%r", state, reasons)
        notify(f"STATUS={state}{': ' if reasons else ''}{reasons}")
    elif isinstance(event, Guests):
        log.info("event=guests offered=%d", len(event.offers))
    elif isinstance(event, DriverState):
        log.info(
            "event=driver driver=%s settled_by=%s preferences=%s reason=%r waiting_for=%s",
            *(event.driver or "-", event.settled_by or "-", event.delivery, event.reason),
            ",".join(event.waiting_for) or "-",
        )
