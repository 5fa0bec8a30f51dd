"""The household as the engine takes it, read from the store."""

from __future__ import annotations

from whodrives.errors import ProfileError
from whodrives.store.profiles import ProfileStore
from whodrives.voice.profile import Household


def household(store: ProfileStore, at_s: float) -> Household:
    """Everybody who is enrolled, and what is wrong with the profiles that cannot be used.

    A store that cannot be read at all is a household of nobody, with the reason.
    """
    try:
        loaded = store.load()
    except ProfileError as error:
        return Household(at_s, (), (str(error),))
    return Household(at_s, tuple(stored.profile for stored in loaded.profiles), loaded.problems)
