"""Arbitration between two daemons with one identity; pure."""

from __future__ import annotations

import math

PROBATION_S = 1.5
"""A new connection makes no requests until it has lasted this long.

If another daemon serves this car, it reconnects meanwhile and ends this connection.
"""


RETURN_S = 1.0
"""A daemon that reconnects within this time need not wait again. Less than PROBATION_S, so that no
other daemon can have started work meanwhile."""


STANDBY_FIRST_S = 60.0


STANDBY_LAST_S = 600.0
"""Retry intervals of a daemon that stands by; each attempt disturbs the other daemon."""


RIVAL_S = 300.0
"""How long `status` reports a client that took the connection over for a moment."""


STANDS_BY = (
    "another whodrives serves this car, on this broker; this one stands by: stop one of the two"
)


TAKEN_FOR_A_MOMENT = (
    "another client comes under our name and certificate; stop the other whodrives of this car"
)


class Place:
    """Decides whether this daemon or another one with the same identity serves the car.

    A second daemon with the same identity makes the broker end the first one's connection, and
    neither can query the other. The rule: a daemon that has worked for PROBATION_S reconnects at
    once; one whose connection ends before that stands by. So the second daemon stands by before it
    has made a request, there are exactly two takeovers, and never two requests.

    Pure: times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._since_s = math.inf
        self._left_s = -math.inf
        self._certain = False
        self._standby_s = STANDBY_FIRST_S

    def admits(self, up_s: float, now_s: float) -> bool:
        """Whether a connection that is up since `up_s` may make requests now."""
        returned = up_s - self._left_s <= RETURN_S
        if not returned and now_s - up_s < PROBATION_S:
            return False
        if not returned:
            self._standby_s = STANDBY_FIRST_S
        self._since_s, self._left_s = (now_s if returned else up_s), -math.inf
        return True

    def missed(self, now_s: float) -> bool:
        """Whether it is too late to reconnect at once, because the other daemon may start work."""
        return self._left_s + RETURN_S < now_s and self._left_s > -math.inf

    def lost(self, thrown_out_s: float | None, *, certain: bool = True) -> float | None:
        """Seconds until the reconnect; None if no other client took the connection over.

        Args:
            thrown_out_s: when the broker ended the connection in favour of another client, if so.
            certain: whether the broker gave that reason.
        """
        returning = self._left_s > -math.inf and self._certain
        worked_s = -math.inf if thrown_out_s is None else thrown_out_s - self._since_s
        self._since_s, self._left_s = math.inf, -math.inf
        if thrown_out_s is None and not returning:
            return None
        if thrown_out_s is not None and worked_s >= PROBATION_S:
            self._left_s, self._certain = thrown_out_s, certain
            return 0.0
        pause_s, self._standby_s = self._standby_s, min(2 * self._standby_s, STANDBY_LAST_S)
        return pause_s
