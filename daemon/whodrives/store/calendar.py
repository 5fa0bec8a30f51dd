"""Days and moments of the calendar, and whether the clock can be right."""

from __future__ import annotations

from datetime import UTC, date, datetime

_FIRST_DAY, _LAST_DAY = date(2026, 11, 1), date(2050, 1, 1)
"""A clock that says less was not set: whodrives was not there yet. One that says more is wrong:
this whodrives will not be there any more. Clocks without a battery begin at 1970, 2000 or the day
their system was built; 2036, 2038 and 2106 are where counters of seconds overflow."""


def today_iso() -> str:
    """This day, UTC, as an ISO 8601 date."""
    return datetime.now(UTC).date().isoformat()


def believed(day: str | None) -> str | None:
    """The day (ISO 8601, also with a time), if a clock that is right can have said it; or None."""
    if day is None:
        return None
    return day if _FIRST_DAY.isoformat() <= day[:10] < _LAST_DAY.isoformat() else None


def clock_problem() -> str | None:
    """What is wrong with the machine's clock, and the fix; None if it can be right."""
    if believed(today_iso()):
        return None
    return (
        f"the machine's clock says {today_iso()}, which cannot be right: nothing is learned and no "
        "day is noted; set it: sudo timedatectl set-time 'YYYY-MM-DD HH:MM:SS', or let it follow a "
        "time server"
    )


def now() -> str:
    """This moment as `Consent.at` and `Receipt.at` say it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
