"""The vocabulary: every value that crosses a boundary, with its shape and unit, and the error tree.

Owns the meaning of the words. Knows nothing of sound devices, models, disks, brokers or clocks:
a time in here is always a parameter, in seconds of one monotonic clock (`at_s`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
"""Every sample in the core is taken at this rate, mono."""

BLOCK_SAMPLES = 480
"""Samples in an `AudioBlock`: 30 ms, the longest frame that usual voice-activity detectors take."""

BLOCK_S = BLOCK_SAMPLES / SAMPLE_RATE_HZ

Floats: TypeAlias = NDArray[np.float32]


# --- errors -------------------------------------------------------------------------------------


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


# --- inputs: everything that can influence the output ---------------------------------------------


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """30 ms of sound.

    Attributes:
        at_s: when its last sample was heard.
        samples: float32, shape (BLOCK_SAMPLES,), in [-1, 1], 16 kHz mono, read-only.
        gap: sound was lost between the block before and this one.
    """

    at_s: float
    samples: Floats
    gap: bool = False


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A value the car reported, and when it was true (`at_s`, same clock as everything)."""

    value: T
    at_s: float


@dataclass(frozen=True, slots=True)
class VehicleState:
    """What is known of the car; None means *not known*, also where two signals disagree.

    Attributes:
        speed_kmh: Vehicle.Speed, km/h; its magnitude, so backing up is moving.
        in_park: SelectedGear is Park (126) or the park lock is engaged.
        parking_brake: Vehicle.Chassis.ParkingBrake.IsEngaged.
        door_open: Vehicle.Cabin.Door.Row1.DriverSide.IsOpen.
        seat_occupied: the driver's seat, from OccupancyStatus and IsOccupied.
        ignition_on: LowVoltageSystemState is ACC, ON or START.
        seat_switch: somebody presses one of the driver's seat's switches (`vss.SEAT_SWITCHES`): the
            newest press, else the newest release.
        key: Vehicle.Occupant.Row1.DriverSide.Identifier.Subject: which key opened the car.
    """

    speed_kmh: Reading[float] | None = None
    in_park: Reading[bool] | None = None
    parking_brake: Reading[bool] | None = None
    door_open: Reading[bool] | None = None
    seat_occupied: Reading[bool] | None = None
    ignition_on: Reading[bool] | None = None
    seat_switch: Reading[bool] | None = None
    key: Reading[str] | None = None


@dataclass(frozen=True, slots=True)
class VehicleReport:
    """The car spoke.

    Attributes:
        at_s: when that reached us.
        state: everything that is known of the car now. It replaces the state before it: what is
            None here is not known any more.
        age_s: how old the newest of its readings was on arrival, from 0; None if it has none.
    """

    at_s: float
    state: VehicleState
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Misdated:
    """A report of the car was refused, because it is dated `ahead_s` seconds in the future."""

    at_s: float
    ahead_s: float


class SourceHealth(StrEnum):
    """What became of the sound source."""

    OPEN = "open"
    LOST = "lost"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class SourceState:
    """The sound source opened, was lost (`reason` says how), or came to its end."""

    at_s: float
    health: SourceHealth
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LinkState:
    """The connection to the broker came up or went away.

    Attributes:
        at_s: when.
        connected: whether it is there.
        reason: why not.
        rival: what is known of another client under our identity, for `status`; empty if nothing.
    """

    at_s: float
    connected: bool
    reason: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class Listen:
    """The head unit asks who is speaking now: the next known voice may become the driver.

    `command` names this command alone; its `CommandResult` carries it. None: no answer is asked.
    """

    at_s: float
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Choose:
    """Somebody chose the driver by hand on the head unit; None: none of the enrolled drives.

    `command` names this command alone; its `CommandResult` carries it.
    """

    at_s: float
    command: str
    driver: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The head unit says stop: whatever was asked for, and whatever still waits.

    `command` names this command alone; its `CommandResult` carries it.
    """

    at_s: float
    command: str


@dataclass(frozen=True, slots=True)
class Save:
    """The head unit says that the present position is what the driver prefers.

    `command` names this command alone; its `CommandResult` carries it.
    """

    at_s: float
    command: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The head unit says that an enrolled driver be erased."""

    at_s: float
    command: str
    driver: str


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
class Position:
    """Where the ECU says that seat, wheel and mirrors are.

    Attributes:
        at_s: when it reached us.
        true_s: when it was true; as `Reading.at_s`.
        moving: whether any of them moves.
        signals: VSS path to value, in the path's unit, in the newest VSS that we know.
    """

    at_s: float
    true_s: float
    moving: bool
    signals: Mapping[str, float]


class AnswerStatus(StrEnum):
    """What an ECU says of a request; the last three are final for what was accepted."""

    ACCEPTED = "accepted"
    COMPLETED = "completed"
    REJECTED = "rejected"
    ABORTED = "aborted"


MANUAL = "manual"
"""The reason of an answer that says: a person used a switch."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An ECU says what became of a request.

    Attributes:
        at_s: when it reached us.
        request: the `Apply.request` it speaks of.
        status: what became of it.
        reason: why, for REJECTED and ABORTED: a code such as MANUAL or a condition's name; else
            empty.
    """

    at_s: float
    request: str
    status: AnswerStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first input of a daemon's life.

    Attributes:
        at_s: when it began.
        session: unlike every other daemon's; request ids are made from it.
        remembered: what the daemon before this one remembered of its trip, if it died in this
            start of the machine.
        gone_s: seconds since that daemon last knew seat, door and ignition.
    """

    at_s: float
    session: str
    remembered: TripMemory | None = None
    gone_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Household:
    """The enrolled drivers, anew: somebody was enrolled, renamed or forgotten.

    `problems` are sentences about profiles that could not be used.
    """

    at_s: float
    profiles: tuple[Profile, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed and nothing else happened."""

    at_s: float


Input: TypeAlias = (
    AudioBlock
    | VehicleReport
    | Misdated
    | SourceState
    | LinkState
    | Listen
    | Choose
    | Cancel
    | Save
    | Forget
    | Enrol
    | Position
    | Answer
    | Begin
    | Household
    | Tick
)


# --- speech and evidence --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Enough new speech to judge again.

    Attributes:
        samples: float32, shape (n,): the new speech only, 16 kHz mono.
        new_s: seconds of speech in `samples`.
        speech_s: seconds of speech in the utterance so far, this look included.
        snr_db: level of the speech over the noise around it, dB; None while no noise was heard.
        at_s: when the last sample needed for this look was heard.
    """

    samples: Floats
    new_s: float
    speech_s: float
    snr_db: float | None
    at_s: float


@dataclass(frozen=True, slots=True)
class UtteranceEnd:
    """The person stopped speaking, or the utterance was cut because it grew too long.

    `discarded` says that sound was lost inside it, so nothing may be concluded from it.
    """

    at_s: float
    speech_s: float
    snr_db: float | None
    discarded: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """How an utterance compares with one profile.

    Attributes:
        driver: the profile's id.
        cosine: between the utterance's mean embedding and the profile's, in [-1, 1].
        llr: natural-log likelihood ratio, same person against different people, from the cosine
            and from how like the rest of the household the voice is.
    """

    driver: str
    cosine: float
    llr: float


@dataclass(frozen=True, slots=True)
class Sound:
    """How good the sound of some speech is.

    Attributes:
        level_dbfs: RMS level, dB relative to full scale.
        clipped: share of the samples at full scale, in [0, 1].
        upper_band_db: energy above the telephone's band relative to that within it, dB.
    """

    level_dbfs: float
    clipped: float
    upper_band_db: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """One utterance that may teach something, as a whole.

    Attributes:
        voice: float32, shape (D,), unit length: the mean embedding of its looks.
        speech_s: seconds of speech in it.
        snr_db: level of the speech over the noise around it, dB; None while no noise was heard.
        matches: how it compares with the household, best first.
    """

    voice: Floats = field(repr=False)
    speech_s: float
    snr_db: float | None
    matches: tuple[Match, ...]


class Noise(StrEnum):
    """How much noise was around speech."""

    QUIET = "quiet"
    SOME = "some"
    LOUD = "loud"


@dataclass(frozen=True, slots=True)
class Held:
    """What one trip taught, in quarantine.

    Attributes:
        day: of the trip; days are counted as by `datetime.date.toordinal`.
        voice: float32, shape (D,), unit length: the mean embedding of its lessons.
        speech_s: seconds of speech in them.
        noise: around them.
        anchor_cosine: to the enrolled voice, both relative to the mean voice.
    """

    day: int
    voice: Floats = field(repr=False)
    speech_s: float
    noise: Noise
    anchor_cosine: float


@dataclass(frozen=True, slots=True)
class Step:
    """What a profile learned at one time, and where it comes from.

    Attributes:
        day: when it was learned.
        trips: what it was learned from, by ascending day; one embedding each.
    """

    day: int
    trips: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What a profile learned since it was enrolled, oldest first, and what is in quarantine."""

    steps: tuple[Step, ...] = ()
    held: tuple[Held, ...] = ()


RENDITIONS = 3
"""Each window of enrolment speech is embedded so many times: as spoken, and in two noises."""


@dataclass(frozen=True, slots=True)
class Profile:
    """An enrolled driver's voice.

    Attributes:
        id: pseudonymous identifier, safe to publish.
        embeddings: float32, shape (RENDITIONS k, D), each of unit length: the k windows of
            enrolment speech as spoken, then all of them in road noise, then in broadband noise.
        encoder: fingerprint of the encoder that made them; others cannot be compared.
        speech_s: seconds of speech they were made from.
        preferences: VSS path to value, in the path's unit.
        key: the key fob that is this driver's, as `VehicleState.key` names it; None for none.
        adaptation: what was learned since; `embeddings`, the anchor, stay as they were enrolled.
    """

    id: str
    embeddings: Floats
    encoder: str
    speech_s: float
    preferences: Mapping[str, float] = field(default_factory=dict)
    key: str | None = None
    adaptation: Adaptation = field(default_factory=Adaptation)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All matches of one voice, best first, and the speech they rest on.

    `sound` is None while there was too little speech to look at.
    """

    matches: tuple[Match, ...]
    speech_s: float
    snr_db: float | None
    at_s: float
    sound: Sound | None = None


class Outcome(StrEnum):
    """What was concluded about one utterance."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    AMBIGUOUS = "ambiguous"
    INSUFFICIENT_SPEECH = "insufficient_speech"
    POOR_SOUND = "poor_sound"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusion about one utterance.

    Attributes:
        outcome: what was concluded.
        driver: the enrolled driver's id; set exactly when the outcome is KNOWN.
        evidence: what the conclusion rests on.
        probability: that the voice is the best match's, in [0, 1], from its llr at even prior odds;
            None without any match.
        reason: "telephone_band", "clipped" or "noise"; set exactly when the outcome is POOR_SOUND.
    """

    outcome: Outcome
    driver: str | None
    evidence: Evidence
    probability: float | None
    reason: str | None = None


# --- events: everything the core wants the world to know ------------------------------------------


@dataclass(frozen=True, slots=True)
class Recognition:
    """One utterance was judged."""

    at_s: float
    verdict: Verdict


class Delivery(StrEnum):
    """What became of the driver's preferences in this trip.

    With two requests (seat, mirrors) the one that is least far is shown.
    """

    NONE = "none"
    WAITING = "waiting"
    REQUESTED = "requested"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    REJECTED = "rejected"
    ABORTED = "aborted"
    UNANSWERED = "unanswered"


class SettledBy(StrEnum):
    """What settled the driver of a trip."""

    VOICE = "voice"
    KEY = "key"
    HAND = "hand"


@dataclass(frozen=True, slots=True)
class DriverState:
    """Who drives this trip.

    Attributes:
        at_s: when this became so.
        driver: the settled driver's id, or None for unknown.
        since_s: when the driver was settled; None while unknown.
        probability: of the recognition that settled it; None while unknown, or not by voice.
        settled_by: what settled it; None while nothing did. HAND without a driver: somebody said
            that nobody enrolled drives.
        delivery: what became of the preferences.
        reason: why, for REJECTED and ABORTED: the ECU's words; else empty.
        waiting_for: the conditions that hold them back (names of the interlock's rules).
        trip_open: whether a trip is under way; when it is not, the retained topic is cleared.
    """

    at_s: float
    driver: str | None = None
    since_s: float | None = None
    probability: float | None = None
    settled_by: SettledBy | None = None
    delivery: Delivery = Delivery.NONE
    reason: str = ""
    waiting_for: tuple[str, ...] = ()
    trip_open: bool = False


@dataclass(frozen=True, slots=True)
class Apply:
    """Ask the ECUs to move to this driver's preferences, now or not at all.

    `request` is a UUID in its text form: the idempotency key. A request that nobody answered is
    made again under the same one, with a new `at_s`; whoever acted on it does not act again.
    """

    at_s: float
    request: str
    driver: str
    signals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the ECUs to stop what a request started, and to refuse it if it still arrives."""

    at_s: float
    request: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prefer:
    """Keep `signals` (VSS path to value) as the driver's preferences, for the command `command`."""

    at_s: float
    command: str
    driver: str
    signals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Erase:
    """Erase a driver from the store, for the command `command`."""

    at_s: float
    command: str
    driver: str


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of a head unit's command; `reason` says why it was not done (empty: done)."""

    at_s: float
    command: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an enrolment.

    Attributes:
        code: for machines.
        text: for people, with the mend; without a name.
        grave: whether it stands against a profile; else it is advice.
    """

    code: str
    text: str
    grave: bool = True


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
class Adopt:
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


@dataclass(frozen=True, slots=True)
class Stray:
    """An answer came to a request that was not made in this trip; it changed nothing."""

    at_s: float
    request: str


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of the ECUs in this trip.

    Attributes:
        request: its id, as in `Apply`.
        driver: for whom.
        signals: what it asks, the same each time it is sent.
        delivery: how far it is: REQUESTED, or what was answered, or UNANSWERED.
        reason: why, for REJECTED and ABORTED; else empty.
        asked_at_s: when it was sent last.
        current: whether it belongs to the present settling; earlier ones are kept for their
            answers.
    """

    request: str
    driver: str
    signals: Mapping[str, float]
    delivery: Delivery
    reason: str
    asked_at_s: float
    current: bool = True


@dataclass(frozen=True, slots=True)
class OutboxMemory:
    """What is asked for, and what waits to be.

    Attributes:
        waiting: groups that wait for the car.
        wanted_until_s: until when they wait, and requests are repeated; None: not any more.
        cancelled: somebody said stop; only an act by hand asks for anything again.
        requests: of this trip, the oldest first.
        touched: groups that a person has moved by hand in this trip.
    """

    waiting: tuple[str, ...] = ()
    wanted_until_s: float | None = None
    cancelled: bool = False
    requests: tuple[Request, ...] = ()
    touched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TripMemory:
    """All of a trip that must outlive a daemon that dies; plain values, fit for JSON.

    Attributes:
        opened_s: when the trip under way began; None: there is none.
        settled: whether it is decided who drives; `driver` None then means nobody enrolled.
        driver: as in `DriverState`, and so the next three.
        since_s: when the driver was settled.
        probability: of the recognition that settled it.
        settled_by: what settled it.
        listen_until_s: until when a known voice may replace the driver; None: it may not.
        other_voice: whether another driver's voice was known since this one was settled.
        moved: VSS paths of what the ECU has told to be moved without a request in this trip.
        outbox: what is asked for.
    """

    opened_s: float | None = None
    settled: bool = False
    driver: str | None = None
    since_s: float | None = None
    probability: float | None = None
    settled_by: SettledBy | None = None
    listen_until_s: float | None = None
    other_voice: bool = False
    moved: tuple[str, ...] = ()
    outbox: OutboxMemory = OutboxMemory()


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep this of the trip, so that a daemon that dies asks for nothing twice.

    It comes before the events that it makes safe to send.
    """

    at_s: float
    memory: TripMemory


@dataclass(frozen=True, slots=True)
class Learn:
    """A trip of this driver's is over; `lessons` were recognised with a wide margin in it.

    For the store alone: neither for the bus nor for the log.
    """

    at_s: float
    driver: str
    lessons: tuple[Lesson, ...]


@dataclass(frozen=True, slots=True)
class Met:
    """A trip is over, and `lessons` were spoken in it by voices that nobody knows.

    For the guest book alone: neither for the bus nor for the log.
    """

    at_s: float
    lessons: tuple[Lesson, ...]
    accompanied: bool = False
    """Whether an enrolled driver drove."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A guest who came back often enough to be asked whether to be enrolled.

    Attributes:
        guest: pseudonymous id, safe to publish.
        trips: number of trips in which the guest spoke.
        last_day: of the latest of them, as `Held.day`.
    """

    guest: str
    trips: int
    last_day: int


@dataclass(frozen=True, slots=True)
class Guests:
    """All guests who may be offered to be enrolled, anew; none clears the offer."""

    at_s: float
    offers: tuple[Offer, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """Whether whodrives can do its work; `reasons` say what it lacks (empty: all is well)."""

    at_s: float
    reasons: tuple[str, ...] = ()


Event: TypeAlias = (
    Recognition
    | DriverState
    | Apply
    | Withdraw
    | Prefer
    | Erase
    | CommandResult
    | EnrolmentState
    | Stray
    | Remember
    | Learn
    | Met
    | Guests
    | Health
)


# --- what the core needs from the models ----------------------------------------------------------


class VoiceActivity(Protocol):
    """Says of each 30 ms whether it sounds like speech."""

    def probabilities(self, blocks: Sequence[Floats]) -> Sequence[float]:
        """Probability of speech, in [0, 1], in each of blocks that follow each other.

        Blocks are float32 of shape (BLOCK_SAMPLES,). What is said of one depends on those before
        it, and not on how many are given at a time.
        """

    def reset(self) -> None:
        """Forget what was heard: the next block does not follow the last."""


class Encoder(Protocol):
    """Turns speech into an embedding of the voice."""

    @property
    def fingerprint(self) -> str:
        """Names the space of its embeddings: 64 digits, lower-case hexadecimal.

        The embeddings of two files with the same fingerprint are the same.
        """

    def embed(self, samples: Floats) -> Floats:
        """Embed float32 samples of shape (n,), n >= 0.4 s, into a unit vector of shape (D,)."""


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """How to read a cosine after `speech_s` seconds of speech.

    llr = slope * (cosine - usual) + offset (natural log), where `usual` is what this voice scores
    with other people (`scoring.usual`); logistic calibration after Brummer and du Preez,
    "Application-independent evaluation of speaker detection", 2006.

    Attributes:
        speech_s: seconds of speech.
        slope: see above.
        offset: see above.
        other_cosine: mean cosine of a voice with other people's profiles.
        same_cosine: a further second that is less like the voice so far is somebody else.
        accept_llr: by operating point, for each of the calibration's households.
    """

    speech_s: float
    slope: float
    offset: float
    other_cosine: float
    same_cosine: float
    accept_llr: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of one encoder: the only source of thresholds.

    Attributes:
        encoder: fingerprint of the encoder it was measured on.
        mean: float32, shape (D,): the mean embedding of many people in many places, which every
            embedding is compared relative to.
        points: by ascending seconds of speech, at least one.
        ambiguity_llr: two profiles whose llr differ by less cannot be told apart.
        households: ascending numbers of enrolled drivers that `accept_llr` was measured with.
        alike_cosine: profiles that are more alike than this say nothing of each other's strangers.
    """

    encoder: str
    mean: Floats
    points: Sequence[CalibrationPoint]
    ambiguity_llr: float
    households: Sequence[int]
    alike_cosine: float

    def __post_init__(self) -> None:
        """Refuse points that are missing or out of order: nothing could be read between them."""
        durations = [point.speech_s for point in self.points]
        if not durations or sorted(set(durations)) != durations:
            raise ValueError("calibration needs at least one point, by ascending speech_s")
        sizes = list(self.households)
        if not sizes or sorted(set(sizes)) != sizes or sizes[0] < 1:
            raise ValueError("calibration needs at least one household, by ascending size")
        rows = [row for point in self.points for row in point.accept_llr.values()]
        if any(len(row) != len(sizes) for row in rows):
            raise ValueError("every accept_llr needs a threshold for each household")


OperatingPoint: TypeAlias = Literal["1/100", "1/1000"]
"""How many strangers' utterances may be taken for a driver."""
