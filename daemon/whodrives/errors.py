"""The errors that a person can fix. Each text names the thing, what is wrong, and the fix."""

from __future__ import annotations


class WhodrivesError(Exception):
    """An error that a person can fix. The text names the thing, what is wrong, and the fix."""


class ConfigError(WhodrivesError):
    """The configuration cannot be used; the text lists every mistake in it."""


class ModelError(WhodrivesError):
    """A model file is missing, changed, or not what its manifest says."""


class SourceError(WhodrivesError):
    """A microphone, file or pipe gives no sound that can be judged."""


class ProfileError(WhodrivesError):
    """A stored profile, or a request to the store, is invalid."""


class EnrolmentError(WhodrivesError):
    """A recording is not good enough to make a profile from; every reason is in the text."""


class BusError(WhodrivesError):
    """The broker cannot be reached or refuses the connection."""


class BusyError(WhodrivesError):
    """Another process already serves this car or store; the text names it."""


class PayloadError(WhodrivesError):
    """A message violates the contract; the text names topic and field.

    Args:
        text: what is wrong.
        cause: category of the fault, by which repetitions are counted: one of a few fixed words.
    """

    def __init__(self, text: str, *, cause: str = "content") -> None:
        super().__init__(text)
        self.cause = cause
