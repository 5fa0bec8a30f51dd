"""What a soak has found: what was different, and what each daemon held after each hour."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

WARM_HOURS = 30
"""Hours of a daemon's life that are left out of the slope: caches fill."""


@dataclass(slots=True)
class Life:
    """What was measured after each hour of one daemon."""

    rss_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)

    def slope(self) -> tuple[float, float] | None:
        """MB in a hundred hours, with its standard error; None for a life that was too short."""
        rss = np.array(self.rss_mb[WARM_HOURS:])
        if len(rss) < WARM_HOURS:
            return None
        hours = np.arange(len(rss)) / 100
        (slope, _), covariance = np.polyfit(hours, rss, 1, cov=True)
        return float(slope), float(np.sqrt(covariance[0, 0]))


@dataclass(slots=True)
class Outcome:
    """What a soak has found, fit for JSON once it is `told`."""

    hours: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    sentences: int = 0
    recognitions: Counter[str] = field(default_factory=Counter)
    different: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    lives: list[Life] = field(default_factory=lambda: [Life()])

    def told(self, seconds: float) -> dict[str, Any]:
        """All of it in plain values."""
        last = self.lives[-1]
        slope = last.slope()
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": platform.machine(),
            "seconds": round(seconds),
            "hours": self.hours,
            "faults": dict(sorted(self.faults.items())),
            "sentences": self.sentences,
            "recognitions": dict(sorted(self.recognitions.items())),
            "different": self.different[:50],
            "broken": self.broken[:50],
            "daemons": len(self.lives),
            "last_daemon": {
                "hours": len(last.rss_mb),
                "rss_mb_per_100_hours": slope and [round(each, 3) for each in slope],
                "rss_mb": [round(each, 1) for each in last.rss_mb[::10]],
                "threads": sorted(set(last.threads)),
                "handles": sorted(set(last.handles)),
            },
        }
