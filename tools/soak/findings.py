"""What a soak has found: what was different, and what each daemon held after each hour."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

LEAST_HOURS = 60
"""A daemon that lived for less has no slope worth telling."""


@dataclass(slots=True)
class Life:
    """What was measured after each hour of one daemon."""

    rss_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """All that it has used by then."""

    def slopes(self) -> list[tuple[float, float]]:
        """MB in a hundred hours with its standard error, of the first and of the second half.

        In the first, caches and the heap find their size. None for a life that was too short.
        """
        if len(self.rss_mb) < LEAST_HOURS:
            return []
        found = []
        for half in np.array_split(np.array(self.rss_mb), 2):
            (slope, _), covariance = np.polyfit(np.arange(len(half)) / 100, half, 1, cov=True)
            found.append((float(slope), float(np.sqrt(covariance[0, 0]))))
        return found


@dataclass(slots=True)
class Outcome:
    """What a soak has found, fit for JSON once it is `told`."""

    hours: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    sentences: int = 0
    recognitions: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """Of the ECU, by status."""
    different: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    lives: list[Life] = field(default_factory=lambda: [Life()])

    def told(self, seconds: float) -> dict[str, Any]:
        """All of it in plain values."""
        last = self.lives[-1]
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": platform.machine(),
            "seconds": round(seconds),
            "hours": self.hours,
            "faults": dict(sorted(self.faults.items())),
            "sentences": self.sentences,
            "recognitions": dict(sorted(self.recognitions.items())),
            "requests": self.requests,
            "answers": dict(sorted(self.answers.items())),
            "different": self.different[:50],
            "broken": self.broken[:50],
            "daemons": len(self.lives),
            "last_daemon": {
                "hours": len(last.rss_mb),
                "rss_mb_per_100_hours": [
                    [round(each, 3) for each in slope] for slope in last.slopes()
                ],
                "rss_mb": [round(each, 1) for each in last.rss_mb[::10]],
                "threads": sorted(set(last.threads)),
                "handles": sorted(set(last.handles)),
                "cpu_s_an_hour_by_tenths": [
                    round(float(np.mean(tenth)), 2)
                    for tenth in np.array_split(np.diff(last.cpu_s), 10)
                    if len(tenth)
                ],
            },
        }
