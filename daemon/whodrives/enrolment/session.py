"""The enrolment session that a head unit controls.

Owns one enrolment at a time from the command to its result: progress, time-outs, the final checks.
Must not know names, the store, or who may send commands. A session ends with a `StoreVoice`, or
with a refused `EnrolmentState` and a `CommandResult`.
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
"""Time-out of an enrolment."""


_GRACE_S = 5.0
"""Additional time before an enrolment without any sound is given up."""


PROGRESS_S = 1.0
"""Interval of progress events; a change of the problems is reported at once."""


Outcome = EnrolmentState | CommandResult | StoreVoice


@dataclass(frozen=True, slots=True)
class _Current:
    """The enrolment under way."""

    command: Enrol
    enrolment: Enrolment
    since_s: float


class EnrolmentSession:
    """Enrolments by a head unit, one at a time.

    Args:
        activity: makes a new voice-activity detector for each enrolment.
        encoder: the encoder of recognition.
        policy: the policy of recognition.
    """

    def __init__(
        self, activity: Callable[[], VoiceActivity], encoder: Encoder, policy: Policy
    ) -> None:
        self._activity = activity
        self._encoder = encoder
        self._policy = policy
        self._household: tuple[Profile, ...] = ()
        self._current: _Current | None = None
        self._source_lost = False
        self._reported_s = float("-inf")
        self._reported: tuple[str, ...] = ()

    def step(self, received: Timed) -> list[Outcome]:
        """Take one input and return progress, and at the end the profile to store.

        The store reports success: `EnrolmentStage.DONE` and that `CommandResult` are not sent here.
        """
        if isinstance(received, SourceState):
            self._source_lost = received.health is not SourceHealth.OPEN
        if isinstance(received, Household):
            self._household = received.profiles
        if isinstance(received, Enrol):
            return self._begin(received)
        return [] if self._current is None else self._continue(self._current, received)

    def _continue(self, current: _Current, received: Timed) -> list[Outcome]:
        """Take one input during an enrolment."""
        match received:
            case AudioBlock():
                return self._hear(current, received)
            case Cancel():
                return self._give_up(current, received.at_s, (_CANCELLED,))
            case SourceState() if self._source_lost:
                return self._give_up(current, received.at_s, (_NO_SOUND,))
            case Tick() if received.at_s - current.since_s > LONGEST_S + _GRACE_S:
                return self._give_up(current, received.at_s, (_TOO_LONG,))
        return []

    def enrol_guest(self, command: Enrol, voice: Enrolled | None) -> list[Outcome]:
        """Enrol a guest from the speech of earlier trips; `voice` None: there is no such guest.

        The final checks apply.
        """
        reason = self._refusal(command) or ("" if voice else "unknown_guest")
        if reason or voice is None:
            return [CommandResult(command.at_s, command.command, reason)]
        return self._examined(command, voice, command.at_s)

    def _refusal(self, command: Enrol) -> str:
        """Why the command is refused, as a code; empty if it is accepted."""
        known = {profile.id for profile in self._household}
        if self._current:
            return "busy"
        if command.text not in CONSENT:
            return "unknown_consent_text"
        is_known = command.driver in known or (command.driver is None and not command.again)
        return "" if is_known else "unknown_driver"

    def _begin(self, command: Enrol) -> list[Outcome]:
        if reason := self._refusal(command) or ("no_sound" if self._source_lost else ""):
            return [CommandResult(command.at_s, command.command, reason)]
        enrolment = Enrolment(self._activity(), self._encoder)
        self._current = _Current(command, enrolment, command.at_s)
        self._reported_s, self._reported = command.at_s, ()
        return [_state(command, command.at_s, EnrolmentStage.LISTENING, 0.0)]

    def _hear(self, current: _Current, block: AudioBlock) -> list[Outcome]:
        progress = current.enrolment.step(block)
        if progress.enough:
            return self._conclude(current, block.at_s)
        if block.at_s - current.since_s > LONGEST_S:
            blocking = [problem for problem in current.enrolment.problems() if problem.blocking]
            return self._give_up(current, block.at_s, blocking or [_TOO_LONG])
        codes = tuple(problem.code for problem in progress.problems)
        if block.at_s - self._reported_s < PROGRESS_S and codes == self._reported:
            return []
        self._reported_s, self._reported = block.at_s, codes
        stage = EnrolmentStage.LISTENING
        return [_state(current.command, block.at_s, stage, progress.speech_s, progress.problems)]

    def _conclude(self, current: _Current, at_s: float) -> list[Outcome]:
        try:
            enrolled = current.enrolment.finish(at_s)
        except EnrolmentError:
            # The last window made the recording unusable.
            return self._give_up(current, at_s, current.enrolment.problems())
        self._current = None
        return self._examined(current.command, enrolled, at_s)

    def _examined(self, command: Enrol, enrolled: Enrolled, at_s: float) -> list[Outcome]:
        """Run the final checks, and have the profile stored or refused."""
        found = examined(
            enrolled, command.driver, self._household, self._policy, again=command.again
        )
        enough = _state(command, at_s, EnrolmentStage.ENOUGH, enrolled.speech_s)
        if found.problems:
            return [enough, *_refused(command, at_s, enrolled.speech_s, found.problems)]
        store = StoreVoice(
            at_s,
            command.command,
            command.driver,
            enrolled.embeddings,
            enrolled.speech_s,
            command.by,
            command.text,
            command.again,
        )
        return [enough, store]

    def _give_up(
        self, current: _Current, at_s: float, problems: Sequence[Problem]
    ) -> list[Outcome]:
        self._current = None
        return _refused(current.command, at_s, current.enrolment.speech_s, problems)


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


_TOO_LONG = Problem("too_long", "the enrolment took longer than three minutes; nothing is kept")
