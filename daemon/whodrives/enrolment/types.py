"""The values of an enrolment by a head unit.

Owns the command, its progress and its result. Must not know topics or the store. Codes of a
`Problem` are on the wire; texts are for people.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from whodrives.audio.blocks import Floats


@dataclass(frozen=True, slots=True)
class Enrol:
    """The head unit enrols the person who speaks now, or a guest who agreed.

    Attributes:
        at_s: when it reached us.
        command: unique id of this command, repeated in its `CommandResult`.
        driver: whose voice is replaced, or added to; None for a new driver.
        by: pseudonym of the person who agreed, for the record of consent.
        text: version of the consent text.
        guest: the guest to enrol (`Offer.guest`); None: whoever speaks now.
        again: whether the voice is added to that of `driver` instead of replacing it.
    """

    at_s: float
    command: str
    driver: str | None
    by: str
    text: str
    guest: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an enrolment.

    Attributes:
        code: for machines.
        text: for people, with the fix; contains no name.
        blocking: whether it prevents a profile; else it is advice.
    """

    code: str
    text: str
    blocking: bool = True


class EnrolmentStage(StrEnum):
    """The stage of an enrolment; the last two end it."""

    LISTENING = "listening"
    ENOUGH = "enough"
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class EnrolmentState:
    """Progress of an enrolment by the head unit.

    Attributes:
        at_s: when this was so.
        command: its `Enrol.command`.
        stage: see `EnrolmentStage`.
        speech_s: useful seconds of speech so far.
        problems: present problems; for REFUSED, the reasons.
        driver: the driver; None until a new driver is enrolled.
    """

    at_s: float
    command: str
    stage: EnrolmentStage
    speech_s: float
    problems: tuple[Problem, ...] = ()
    driver: str | None = None


@dataclass(frozen=True, slots=True)
class StoreVoice:
    """Store this enrolment for `driver`, or for a new driver, on the command `command`.

    For the store alone: neither for the bus nor for the log. `by`, `text` and `again` as in
    `Enrol`.
    """

    at_s: float
    command: str
    driver: str | None
    embeddings: Floats = field(repr=False)
    speech_s: float
    by: str
    text: str
    again: bool = False
