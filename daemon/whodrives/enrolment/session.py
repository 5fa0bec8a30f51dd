"""An enrolment from its beginning to a profile that may be kept, or the reason why not.

Owns the last questions before a voice is kept: is it recognised again, is it too like somebody
else's, is it the driver's whom it is to replace; and the enrolment that a head unit asks for. Knows
nothing of names, of the store, or of who may ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whodrives.audio.blocks import AudioBlock, SourceHealth, SourceState
from whodrives.enrolment.checks import examined
from whodrives.enrolment.prompts import CONSENT
from whodrives.enrolment.recording import Enrolled, Enrolment
from whodrives.enrolment.types import Enrol, EnrolmentStage, EnrolmentState, Problem, StoreVoice
from whodrives.errors import EnrolmentError
from whodrives.trip.types import Cancel, CommandResult, Tick, Timed
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Household, Profile
from whodrives.voice.types import Encoder, VoiceActivity

LONGEST_S = 180.0
"""An enrolment from the head unit that has not come to an end by then is given up."""


_GRACE_S = 5.0
"""Without any sound it is given up so much later."""


SAY_S = 1.0
"""A head unit is told this often how far it is, and at once when something else is wrong."""


Outcome = EnrolmentState | CommandResult | StoreVoice


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a head unit asked for, and how far it is."""

    command: Enrol
    enrolment: Enrolment
    since_s: float


class EnrolmentSession:
    """Enrolments that a head unit asks for, one at a time.

    Args:
        activity: makes a voice-activity detector of its own.
        encoder: the encoder that recognition uses.
        policy: what recognition uses.
    """

    def __init__(
        self, activity: Callable[[], VoiceActivity], encoder: Encoder, policy: Policy
    ) -> None:
        self._activity = activity
        self._encoder = encoder
        self._policy = policy
        self._household: tuple[Profile, ...] = ()
        self._asked: _Asked | None = None
        self._deaf = False
        self._told_s = float("-inf")
        self._told: tuple[str, ...] = ()

    def step(self, received: Timed) -> list[Outcome]:
        """Take one input; what is to be told, and at the end a voice that is to be kept.

        Whoever keeps it says so: `EnrolmentStage.DONE` and the command's result are not ours.
        """
        if isinstance(received, SourceState):
            self._deaf = received.health is not SourceHealth.OPEN
        if isinstance(received, Household):
            self._household = received.profiles
        if isinstance(received, Enrol):
            return self._begin(received)
        return [] if self._asked is None else self._go_on(self._asked, received)

    def _go_on(self, asked: _Asked, received: Timed) -> list[Outcome]:
        """Take one input during an enrolment."""
        match received:
            case AudioBlock():
                return self._hear(asked, received)
            case Cancel():
                return self._give_up(asked, received.at_s, (_CANCELLED,))
            case SourceState() if self._deaf:
                return self._give_up(asked, received.at_s, (_NO_SOUND,))
            case Tick() if received.at_s - asked.since_s > LONGEST_S + _GRACE_S:
                return self._give_up(asked, received.at_s, (_TOO_LONG,))
        return []

    def enrol_guest(self, command: Enrol, voice: Enrolled | None) -> list[Outcome]:
        """Enrol the guest of a command from what was heard in earlier trips; None: no such guest.

        The last questions are asked as of any voice.
        """
        reason = self._refusal(command) or ("" if voice else "unknown_guest")
        if reason or voice is None:
            return [CommandResult(command.at_s, command.command, reason)]
        return self._examined(command, voice, command.at_s)

    def _refusal(self, command: Enrol) -> str:
        """Why a command is not begun with, as a code; empty if it is."""
        known = {profile.id for profile in self._household}
        if self._asked:
            return "busy"
        if command.text not in CONSENT:
            return "unknown_consent_text"
        return "unknown_driver" if command.driver not in {None, *known} else ""

    def _begin(self, command: Enrol) -> list[Outcome]:
        if reason := self._refusal(command) or ("no_sound" if self._deaf else ""):
            return [CommandResult(command.at_s, command.command, reason)]
        enrolment = Enrolment(self._activity(), self._encoder)
        self._asked = _Asked(command, enrolment, command.at_s)
        self._told_s, self._told = command.at_s, ()
        return [_state(command, command.at_s, EnrolmentStage.LISTENING, 0.0)]

    def _hear(self, asked: _Asked, block: AudioBlock) -> list[Outcome]:
        progress = asked.enrolment.step(block)
        if progress.enough:
            return self._conclude(asked, block.at_s)
        if block.at_s - asked.since_s > LONGEST_S:
            blocking = [problem for problem in asked.enrolment.problems() if problem.blocking]
            return self._give_up(asked, block.at_s, blocking or [_TOO_LONG])
        codes = tuple(problem.code for problem in progress.problems)
        if block.at_s - self._told_s < SAY_S and codes == self._told:
            return []
        self._told_s, self._told = block.at_s, codes
        stage = EnrolmentStage.LISTENING
        return [_state(asked.command, block.at_s, stage, progress.speech_s, progress.problems)]

    def _conclude(self, asked: _Asked, at_s: float) -> list[Outcome]:
        try:
            enrolled = asked.enrolment.finish(at_s)
        except EnrolmentError:
            # What was under way when there was enough has spoilt it.
            return self._give_up(asked, at_s, asked.enrolment.problems())
        self._asked = None
        return self._examined(asked.command, enrolled, at_s)

    def _examined(self, command: Enrol, enrolled: Enrolled, at_s: float) -> list[Outcome]:
        """Ask the last questions, and have the voice kept or refused."""
        found = examined(enrolled, command.driver, self._household, self._policy)
        enough = _state(command, at_s, EnrolmentStage.ENOUGH, enrolled.speech_s)
        if found.problems:
            return [enough, *_refused(command, at_s, enrolled.speech_s, found.problems)]
        adopt = StoreVoice(
            at_s,
            command.command,
            command.driver,
            enrolled.embeddings,
            enrolled.speech_s,
            command.by,
            command.text,
        )
        return [enough, adopt]

    def _give_up(self, asked: _Asked, at_s: float, problems: Sequence[Problem]) -> list[Outcome]:
        self._asked = None
        return _refused(asked.command, at_s, asked.enrolment.speech_s, problems)


def _refused(
    command: Enrol, at_s: float, speech_s: float, problems: Sequence[Problem]
) -> list[Outcome]:
    blocking = tuple(problem for problem in problems if problem.blocking)
    return [
        _state(command, at_s, EnrolmentStage.REFUSED, speech_s, blocking),
        CommandResult(at_s, command.command, ", ".join(problem.code for problem in blocking)),
    ]


def _state(
    command: Enrol,
    at_s: float,
    stage: EnrolmentStage,
    speech_s: float,
    problems: Sequence[Problem] = (),
) -> EnrolmentState:
    return EnrolmentState(at_s, command.command, stage, speech_s, tuple(problems), command.driver)


_CANCELLED = Problem("cancelled", "the enrolment was cancelled; nothing is kept")


_NO_SOUND = Problem("no_sound", "the microphone was lost; nothing is kept")


_TOO_LONG = Problem("too_long", "no enrolment came about in three minutes; nothing is kept")
