"""The errors that a person can fix. Each text names the thing, what is wrong, and the fix."""

from __future__ import annotations


class WhodrivesError(Exception):
    """Something a person can mend. The text names the thing, what is wrong, and the mend."""


class ConfigError(WhodrivesError):
    """The configuration cannot be used; the text lists every mistake in it."""


class ModelError(WhodrivesError):
    """A model file is missing, changed, or not what its manifest says."""


class SourceError(WhodrivesError):
    """A microphone, file or pipe gives no sound that can be judged."""


class ProfileError(WhodrivesError):
    """A stored profile, or what was asked of the store, is not acceptable."""


class EnrolmentError(WhodrivesError):
    """A recording is not good enough to make a profile from; every reason is in the text."""


class BusError(WhodrivesError):
    """The broker cannot be reached or refuses us."""


class BusyError(WhodrivesError):
    """Another process does this work already; the text says which."""


class PayloadError(WhodrivesError):
    """A message does not say what the contract asks; the text names topic and field.

    Args:
        text: what is wrong.
        cause: the kind of fault, by which repeated ones are counted: one of a few fixed words.
    """

    def __init__(self, text: str, *, cause: str = "content") -> None:
        super().__init__(text)
        self.cause = cause
