"""The values of an enrolment that a head unit asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from whodrives.audio.blocks import Floats


@dataclass(frozen=True, slots=True)
class Enrol:
    """The head unit says that whoever speaks now be enrolled, or a guest who agreed.

    Attributes:
        at_s: when it reached us.
        command: names this command alone; its `CommandResult` carries it.
        driver: whom the voice is to replace; None for a new driver.
        by: a pseudonym of who agreed, for the record of consent.
        text: version of the text they agreed to.
        guest: whose voice it is, if it was heard already (`Offer.guest`); else None.
    """

    at_s: float
    command: str
    driver: str | None
    by: str
    text: str
    guest: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an enrolment.

    Attributes:
        code: for machines.
        text: for people, with the fix; without a name.
        blocking: whether it stands against a profile; else it is advice.
    """

    code: str
    text: str
    blocking: bool = True


class EnrolmentStage(StrEnum):
    """How far an enrolment is; the last two end it."""

    LISTENING = "listening"
    ENOUGH = "enough"
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class EnrolmentState:
    """How the enrolment goes that the head unit asked for.

    Attributes:
        at_s: when this was so.
        command: the `Enrol.command` it speaks of.
        stage: how far it is.
        speech_s: useful seconds of speech so far.
        problems: what is wrong just now; for REFUSED, why.
        driver: whose voice it is; None until a new driver is enrolled.
    """

    at_s: float
    command: str
    stage: EnrolmentStage
    speech_s: float
    problems: tuple[Problem, ...] = ()
    driver: str | None = None


@dataclass(frozen=True, slots=True)
class StoreVoice:
    """Keep this voice as `driver`'s, or a new driver's, for the command `command`.

    For the store alone: neither for the bus nor for the log. `by` and `text` as in `Enrol`.
    """

    at_s: float
    command: str
    driver: str | None
    embeddings: Floats = field(repr=False)
    speech_s: float
    by: str
    text: str
