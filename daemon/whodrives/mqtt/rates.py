"""Rate limits of the topics."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Rate limit of one topic (token bucket).

    Attributes:
        burst: messages accepted at once.
        per_s: messages per second accepted in the long run.
    """

    burst: int
    per_s: float


COMMAND_RATE = Rate(10, 1.0)
"""Commands come from a person; more than this is a fault or an attack."""


CANCEL_RATE = Rate(20, 5.0)
"""A separate limit, so that a flood of other commands cannot block a cancel."""


RESULT_RATE = Rate(40, 20.0)
"""An ECU answers a request twice, and at most two requests are live (`trip.requests`)."""


EXPLAINED_RATE = Rate(20, 10.0)
"""Limit on decoding and answering commands beyond their rate, for all of them together."""


POSITION_RATE = Rate(100, 50.0)
"""An ECU reports its position five times a second while anything moves."""


VEHICLE_RATE = Rate(200, 100.0)
"""For all reports together. Beyond it the state is merged and passed on with the next report or by
`merged_report`. A report with a pressed seat switch is always passed on."""


class Bucket:
    """Token bucket of one topic."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at_s = -math.inf

    def excess(self, at_s: float) -> str:
        """Count a message; the error text if it exceeds the rate, else an empty string."""
        rate = self._rate
        since_s = max(0.0, at_s - self._at_s)
        self._tokens = min(float(rate.burst), self._tokens + rate.per_s * since_s)
        self._at_s = max(self._at_s, at_s)
        if self._tokens < 1.0:
            return (
                f"too many messages; send at most {rate.burst} at once and {rate.per_s:g} a second"
            )
        self._tokens -= 1.0
        return ""
