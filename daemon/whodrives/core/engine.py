"""The one object that everything goes through: inputs in, events out.

Owns the order of the stages (gate, looks, embedding, evidence, verdict, trip) and nothing else:
each stage's rule lives in its own module. Time comes in with the inputs. The same inputs give the
same events, live or from a recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from whodrives.adaptation import following
from whodrives.adaptation.samples import SampleCollector
from whodrives.adaptation.types import AdaptationSample
from whodrives.audio.blocks import BLOCK_S, AudioBlock, Floats, SourceHealth, SourceState
from whodrives.audio.offset import SILENCE, is_silent
from whodrives.core.events import EnrolReady, Event, Executed, Health, Input, RefusedCommand
from whodrives.trip.reports import CarReports
from whodrives.trip.trip import Trip
from whodrives.trip.types import CommandResult, DriverState, LinkState, Tick
from whodrives.voice.acoustics import Quality
from whodrives.voice.decision import LEAST_SPEECH_S, WIDE_BAND_FIX, Policy, is_telephone, judge
from whodrives.voice.profile import Household
from whodrives.voice.scoring import RunningModel, compare
from whodrives.voice.segments import Segmenter
from whodrives.voice.types import (
    Encoder,
    Evidence,
    Recognition,
    Segment,
    UtteranceEnd,
    Verdict,
    VoiceActivity,
)

MIN_REPORTED_S = 0.5
"""Sounds with less speech than this are not reported at all: a cough is not an utterance."""


SPLICE_S = 2.5
"""Between two blocks with times this far apart sound is missing, whatever the source says: a
machine that was suspended does not know what it has not heard."""


DEAF_S = 60.0
"""A source that gave nothing but silence for so long is reported. A microphone never does; one
whose noise is gated does, when nobody speaks for so long and nothing is heard of the car."""


NARROW_S = 30.0
"""A source whose speech was of telephone band for so long, without a single utterance of wide band,
is reported: nobody can be recognised by it."""


NARROW = (
    "the speech of the last half minute and more was of telephone band, in which nobody is "
    f"recognised; {WIDE_BAND_FIX}"
)
"""The reason in `Health` for such a source."""


TICK_INTERVAL_S = 0.2
"""So often sound and ticks tell the trip the time; reports of the car and verdicts do at once."""


@dataclass(slots=True)
class _Utterance:
    """Evidence of the utterance under way, or of its present voice."""

    voice: RunningModel = field(default_factory=RunningModel)
    quality: Quality = field(default_factory=Quality)
    evidence: Evidence | None = None
    verdict: Verdict | None = None
    left: bool = False
    """Whether somebody else spoke after the verdict: the rest is not of this voice."""

    @property
    def judged(self) -> bool:
        return self.verdict is not None

    def sample(self) -> AdaptationSample | None:
        """All that was heard of it; None when nothing was."""
        evidence = self.evidence
        if evidence is None or not self.voice.embeddings:
            return None
        return AdaptationSample(
            self.voice.pooled(), evidence.speech_s, evidence.snr_db, evidence.matches
        )


class Recognizer:
    """Hears blocks of sound and reports of the car; says who speaks and what the car should do.

    Args:
        activity: the voice-activity detector; its state belongs to this object from now on.
        encoder: the speaker encoder.
        policy: the promise to strangers and the encoder's calibration.

    It knows nobody until a `Household` comes in. It keeps no sound beyond the utterance under way.

    Raises:
        ValueError: the calibration was measured on another encoder.
    """

    def __init__(self, activity: VoiceActivity, encoder: Encoder, policy: Policy) -> None:
        if policy.calibration.encoder != encoder.fingerprint:
            raise ValueError("the calibration belongs to another encoder")
        self._given_policy = policy
        self._activity = activity
        self._encoder = encoder
        self._policy = policy
        self._gate = Segmenter()
        self._trip = Trip()
        self._reports = CarReports()
        self._samples = SampleCollector(policy)
        self._utterance = _Utterance()
        self._voices: tuple[tuple[str, Floats], ...] = ()
        self._templates: tuple[Floats, ...] = ()
        self._problems: tuple[str, ...] = ()
        self._source_reason = "source: not open yet"
        self._rival = ""
        self._silent_blocks = 0
        self._narrow_s = 0.0
        self._health: Health | None = None
        self._told_time_s = float("-inf")
        self._block_s = float("inf")

    @property
    def heard_s(self) -> float:
        """The last time for which seat, door and ignition were all known; -inf: never."""
        return self._trip.heard_s

    @property
    def awaits_verdict(self) -> bool:
        """Whether an utterance is under way and not judged: any block may decide it."""
        return self._gate.in_utterance and not self._utterance.judged

    @property
    def fingerprint(self) -> str:
        """The encoder's, 64 digits, lower-case hexadecimal."""
        return self._encoder.fingerprint

    @property
    def silent_s(self) -> float:
        """For how many seconds the open source has given nothing but zeros or a constant."""
        return self._silent_blocks * BLOCK_S

    @property
    def live_requests(self) -> int:
        """The number of requests of this trip that no final answer came for yet."""
        return self._trip.live_requests

    def step(self, item: Input) -> list[Event]:
        """Take one input; return what follows from it, in order.

        Inputs must come in the order of their `at_s`, as one clock gave it.
        """
        if isinstance(item, AudioBlock):
            (events,) = self.hear([item])
            return events
        if isinstance(item, RefusedCommand):
            return [CommandResult(item.at_s, item.command, item.reason)]
        if isinstance(item, Executed):
            return list(item.events)
        if isinstance(item, EnrolReady):
            return []
        events = self._told(item)
        if not isinstance(item, Tick):
            self._reports.step(item)
            told = isinstance(item, Household | SourceState | LinkState)
            if told or self._health is not None:
                events += self._health_events(item.at_s)
        return self._with_samples(events)

    def hear(self, blocks: Sequence[AudioBlock]) -> Iterator[list[Event]]:
        """Take blocks that follow each other; yield what follows from each, in turn.

        It is what `step` gives for one after the other, at less cost: the detector hears them at
        one go. Anything but a `SourceState` may be told before the next is asked for.
        """
        for run in _unbroken(self._spliced(blocks)):
            if run[0].gap:
                self._activity.reset()
            probabilities = self._activity.probabilities([block.samples for block in run])
            for block, probability in zip(run, probabilities, strict=True):
                yield self._with_samples(self._heard(block, probability))

    def _spliced(self, blocks: Sequence[AudioBlock]) -> Sequence[AudioBlock]:
        """The same blocks, with `gap` where the time between two of them tells of one."""
        if not blocks:
            return blocks
        before_s, self._block_s = self._block_s, blocks[-1].at_s
        times = [before_s, *(block.at_s for block in blocks)]
        return [
            replace(block, gap=True) if now_s - last_s > SPLICE_S else block
            for block, (last_s, now_s) in zip(blocks, pairwise(times), strict=True)
        ]

    def _with_samples(self, events: list[Event]) -> list[Event]:
        taught = [self._samples.follow(e) for e in events if isinstance(e, DriverState)]
        return [*events, *(event for some in taught for event in some)]

    def _heard(self, block: AudioBlock, probability: float) -> list[Event]:
        events = self._silence_events(block)
        for piece in self._gate.step(block, probability):
            events += self._judged(piece)
        return events + self._time_passed(block.at_s)

    def _silence_events(self, block: AudioBlock) -> list[Event]:
        """Say when a source that is open has given no sound for DEAF_S, and when it does again."""
        before = self._is_deaf
        self._silent_blocks = self._silent_blocks + 1 if is_silent(block.samples) else 0
        return self._health_events(block.at_s) if self._is_deaf != before else []

    @property
    def _is_deaf(self) -> bool:
        return self.silent_s >= DEAF_S

    def _band_events(self, evidence: Evidence, at_s: float) -> list[Event]:
        """Say when a source has given nothing but telephone band for NARROW_S, and wide band again.

        A single utterance may be of a call on the loudspeaker, whatever the microphone.
        """
        if evidence.sound is None or evidence.speech_s < LEAST_SPEECH_S:
            return []
        before = self._is_narrow
        narrow = is_telephone(evidence.sound)
        self._narrow_s = self._narrow_s + evidence.speech_s if narrow else 0.0
        return self._health_events(at_s) if self._is_narrow != before else []

    @property
    def _is_narrow(self) -> bool:
        return self._narrow_s >= NARROW_S

    def _time_passed(self, at_s: float) -> list[Event]:
        """Let the trip know the time, unless it was told just before."""
        if at_s - self._told_time_s < TICK_INTERVAL_S:
            return []
        self._told_time_s = at_s
        self._reports.step(Tick(at_s))
        changed = [] if self._health is None else self._health_events(at_s)
        return [*self._trip.step(Tick(at_s)), *changed]

    def _told(self, item: Input) -> list[Event]:
        if isinstance(item, Tick):
            return self._time_passed(item.at_s)
        if isinstance(item, SourceState):
            return self._source_changed(item)
        if isinstance(item, LinkState):
            self._rival = item.rival
        if isinstance(item, Household):
            given = self._given_policy
            sizes = (following.dimension(p, given.calibration) for p in item.profiles)
            self._policy = given.serving(sizes)
            calibration = self._policy.calibration
            self._voices = tuple(
                (p.id, following.speaker_model(p, calibration)) for p in item.profiles
            )
            self._templates = tuple(
                following.enrolment_template(p, calibration) for p in item.profiles
            )
            self._problems = item.problems
            # Evidence about the old household says nothing of the new one.
            self._gate.reset()
            self._utterance = _Utterance()
            self._samples.household_changed(self._policy)
        return list(self._trip.step(item))

    def _source_changed(self, item: SourceState) -> list[Event]:
        self._source_reason = "" if item.health is SourceHealth.OPEN else f"source: {item.reason}"
        self._silent_blocks = 0
        events: list[Event] = []
        if item.health is SourceHealth.ENDED:
            for piece in self._gate.flush(item.at_s):
                events += self._judged(piece)
        self._narrow_s = 0.0
        self._activity.reset()
        self._gate.reset()
        self._utterance = _Utterance()
        return events

    def _judged(self, piece: Segment | UtteranceEnd) -> list[Event]:
        if isinstance(piece, Segment):
            return self._looked(piece)
        if not piece.discarded:
            return self._over(piece)
        self._utterance = _Utterance()
        return []

    def _over(self, end: UtteranceEnd | None = None) -> list[Event]:
        """Judge the utterance for the last time, and keep it if it may teach something."""
        events = self._concluded(final=True, end=end)
        verdict, sample = self._utterance.verdict, self._utterance.sample()
        if verdict is not None and sample is not None:
            self._samples.heard(verdict, sample, len(self._voices))
        self._utterance = _Utterance()
        return events

    def _looked(self, look: Segment) -> list[Event]:
        """Add a look to the evidence.

        When somebody else goes on speaking, what was said before is judged for itself. Once an
        utterance is judged, most need not be heard on, and nothing more follows from any.
        """
        utterance = self._utterance
        verdict = utterance.verdict
        if verdict and (utterance.left or not self._samples.needs_rest_of(verdict)):
            return []
        calibration = self._policy.calibration
        embedding = self._encoder.embed(look.samples)
        events: list[Event] = []
        if not utterance.voice.take(embedding, look.new_s, calibration):
            if verdict:
                utterance.left = True
                return []
            events = self._over()
            self._utterance.voice.take(embedding, look.new_s, calibration)
        voice, quality = self._utterance.voice, self._utterance.quality
        quality.add(look.samples)
        heard = voice.mean_subtracted(calibration)
        matches = compare(heard, voice.speech_s, self._voices, calibration, self._templates)
        self._utterance.evidence = Evidence(
            matches, voice.speech_s, look.snr_db, look.at_s, quality.sound()
        )
        return events + self._concluded(final=False)

    def _concluded(self, *, final: bool, end: UtteranceEnd | None = None) -> list[Event]:
        evidence = self._utterance.evidence
        if evidence is None and end is not None and end.speech_s >= MIN_REPORTED_S:
            evidence = Evidence((), end.speech_s, end.snr_db, end.at_s)
        if evidence is None or self._utterance.judged:
            return []
        verdict = judge(evidence, len(self._voices), self._policy, final=final)
        if verdict is None:
            return []
        self._utterance.verdict = verdict
        at_s = end.at_s if end else evidence.at_s
        heard = [Recognition(at_s, verdict), *self._trip.heard(verdict, at_s)]
        return heard + self._band_events(evidence, at_s)

    def _health_events(self, at_s: float) -> list[Event]:
        deaf = f"source: {SILENCE}" if self._is_deaf else ""
        narrow = f"source: {NARROW}" if self._is_narrow else ""
        car = f"vehicle: {self._reports.reason}" if self._reports.reason else ""
        rival = f"broker: {self._rival}" if self._rival else ""
        found = (self._source_reason, deaf, narrow, car, rival, *self._problems)
        reasons = [reason for reason in found if reason]
        if not self._voices:
            reasons.append("profiles: no driver is enrolled")
        health = Health(at_s, tuple(reasons))
        if self._health is not None and self._health.reasons == health.reasons:
            return []
        self._health = health
        return [health]


def _unbroken(blocks: Sequence[AudioBlock]) -> Iterator[Sequence[AudioBlock]]:
    """The same blocks in runs: only the first of a run may have lost sound before it."""
    starts = [n for n, block in enumerate(blocks) if block.gap and n > 0]
    for start, end in pairwise([0, *starts, len(blocks)]):
        if start < end:
            yield blocks[start:end]
