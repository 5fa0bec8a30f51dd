"""What a daemon does when another one takes over its connection; pure."""

from __future__ import annotations

import math

PROBATION_S = 1.5
"""A new connection asks for nothing until it has stood this long.

If another daemon serves this car, it comes back meanwhile and ends ours.
"""


RETURN_S = 1.0
"""Who comes back this soon need not wait again. Less than PROBATION_S, so that nobody else has
gone to work meanwhile."""


STANDBY_FIRST_S = 60.0


STANDBY_LAST_S = 600.0
"""Pauses of a daemon that left its place to another one; each attempt disturbs that one."""


RIVAL_S = 300.0
"""How long `status` tells of a client that took our place for a moment."""


STANDS_BY = (
    "another whodrives serves this car, on this broker; this one stands by: stop one of the two"
)


TAKEN_FOR_A_MOMENT = (
    "another client comes under our name and certificate; stop the other whodrives of this car"
)


class Place:
    """Whether this daemon has its car's place at the broker, which only one can have.

    A second daemon with the same identity makes the broker end the first one's connection, and
    neither can ask the other. The rule: who has worked for PROBATION_S comes back at once, and who
    is thrown out before that leaves the place to the other and stands by. So the second steps back
    before it has asked for anything, there are two takeovers and no more, and never two requests.

    Pure: times are the monotonic clock's.
    """

    def __init__(self) -> None:
        self._since_s = math.inf
        self._left_s = -math.inf
        self._certain = False
        self._standby_s = STANDBY_FIRST_S

    def admits(self, up_s: float, now_s: float) -> bool:
        """Whether a connection that is up since `up_s` goes to work now."""
        returned = up_s - self._left_s <= RETURN_S
        if not returned and now_s - up_s < PROBATION_S:
            return False
        if not returned:
            self._standby_s = STANDBY_FIRST_S
        self._since_s, self._left_s = (now_s if returned else up_s), -math.inf
        return True

    def missed(self, now_s: float) -> bool:
        """Whether it is too late to come back at once: the other one goes to work."""
        return self._left_s + RETURN_S < now_s and self._left_s > -math.inf

    def lost(self, thrown_out_s: float | None, *, certain: bool = True) -> float | None:
        """After how long to come back; None if nobody threw us out.

        Args:
            thrown_out_s: when the broker ended the connection that was up, for another client.
            certain: whether it said that this was why.
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
