"""How many messages of each topic are taken per second."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit on the messages of one topic (token bucket).

    Attributes:
        burst: messages that may come at once.
        per_s: messages a second that are allowed in the long run.
    """

    burst: int
    per_s: float


COMMAND_RATE = Rate(10, 1.0)
"""A person gives commands: more than these come from a fault or an attack."""


CANCEL_RATE = Rate(20, 5.0)
"""A limit of its own, so that no flood of other commands keeps a cancel out."""


RESULT_RATE = Rate(40, 20.0)
"""An ECU answers a request twice, and at most two requests are live (`outbox`)."""


EXPLAINED_RATE = Rate(20, 10.0)
"""Of all commands that come too fast together: those beyond it are not even read, nor answered."""


POSITION_RATE = Rate(100, 50.0)
"""An ECU reports its position five times a second while anything moves."""


VEHICLE_RATE = Rate(200, 100.0)
"""Of all reports together. Beyond it the state is merged and told with the next report, or by
`merged_report`, unless a seat switch is pressed: such a report always goes on."""


class Bucket:
    """Counts the messages of one topic against its rate (token bucket)."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at_s = -math.inf

    def excess(self, at_s: float) -> str:
        """Count a message; what is wrong if it is one too many, else empty."""
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
