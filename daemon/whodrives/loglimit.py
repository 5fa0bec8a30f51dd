"""How often one thing is logged: input from outside must not fill the log.

Pure: the time is a parameter. Used for payloads that are refused, by topic and cause, and for every
line of the daemon, by its kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

OTHER = "other"
"""The key under which everything is counted for which there is no room."""


@dataclass(slots=True)
class _Window:
    began_s: float
    told: int = 0
    suppressed: int = 0


class LogLimit:
    """Admits at most `burst` lines of a key in `window_s`, and says how many it suppressed.

    Args:
        burst: lines of one key in a window.
        window_s: a window begins with the first line of its key.
        most_keys: keys that are counted apart; further ones share the key OTHER.
    """

    def __init__(self, burst: int, window_s: float = 60.0, most_keys: int = 32) -> None:
        self._burst = burst
        self._window_s = window_s
        self._most_keys = most_keys
        self._windows: dict[str, _Window] = {}

    def admits(self, key: str, now_s: float) -> bool:
        """Whether a line is to be written; counted if not."""
        if key not in self._windows and len(self._windows) >= self._most_keys:
            key = OTHER
        window = self._windows.setdefault(key, _Window(now_s))
        if window.told < self._burst:
            window.told += 1
            return True
        window.suppressed += 1
        return False

    def over(self, now_s: float = math.inf) -> list[tuple[str, int]]:
        """Close the windows that end by `now_s`; the keys and counts of what they suppressed."""
        ended = [k for k, w in self._windows.items() if now_s - w.began_s >= self._window_s]
        closed = [(key, self._windows.pop(key)) for key in ended]
        return [(key, window.suppressed) for key, window in closed if window.suppressed]
