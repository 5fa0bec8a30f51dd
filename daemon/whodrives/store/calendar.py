"""Calendar days and times, and whether the machine's clock is plausible."""

from __future__ import annotations

from datetime import UTC, date, datetime

_FIRST_DAY, _LAST_DAY = date(2026, 11, 1), date(2050, 1, 1)
"""Plausible range of the clock: before the first day whodrives did not exist; the last day exceeds
the lifetime of this version. Clocks without a battery start in 1970, 2000 or on the system's build
date; counters of seconds overflow in 2036, 2038 and 2106."""


def today_iso() -> str:
    """Today, UTC, as an ISO 8601 date."""
    return datetime.now(UTC).date().isoformat()


def believed(day: str | None) -> str | None:
    """The day (ISO 8601, also with a time) if it is plausible, else None."""
    if day is None:
        return None
    return day if _FIRST_DAY.isoformat() <= day[:10] < _LAST_DAY.isoformat() else None


def clock_problem() -> str | None:
    """What is wrong with the machine's clock, and the fix; None if it is plausible."""
    if believed(today_iso()):
        return None
    return (
        f"the machine's clock says {today_iso()}, which cannot be right: nothing is learned and no "
        "day is noted; set it: sudo timedatectl set-time 'YYYY-MM-DD HH:MM:SS', or let it follow a "
        "time server"
    )


def now() -> str:
    """The present time, ISO 8601, UTC, to the second; for `Consent.at` and `Receipt.at`."""
    return datetime.now(UTC).isoformat(timespec="seconds")
