"""In what order the daemon takes what has come, and what it gives up when it cannot keep up."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from threading import Timer

import numpy as np

from whodrives import clock
from whodrives.audio.blocks import BLOCK_SAMPLES, AudioBlock, Floats, SourceHealth, SourceState
from whodrives.core.events import Event, Executed, Input
from whodrives.enrolment.session import EnrolmentSession
from whodrives.enrolment.types import Enrol
from whodrives.service.daemon import QUIET_DELAY_S, Daemon, Executor
from whodrives.service.inbox import LATE_S, Inbox, Sound, drop_backlog
from whodrives.service.log import LogFilter
from whodrives.service.signals import SignalFlags
from whodrives.trip.types import Cancel
from whodrives.vehicle.state import VehicleReport, VehicleState
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Household
from whodrives.voice.types import Calibration, CalibrationPoint, VoiceActivity

SOUND = np.zeros(BLOCK_SAMPLES, np.float32)


def block(at_s: float) -> AudioBlock:
    """A block of silence."""
    return AudioBlock(at_s, SOUND)


class Taken:
    """Stands where the recognizer stands, and notes what it is told."""

    heard_s = 0.0

    awaits_verdict = False

    def __init__(self) -> None:
        self.items: list[Input] = []

    def step(self, item: Input, /) -> list[Event]:
        """Note it."""
        self.items.append(item)
        return []

    def hear(self, blocks: Sequence[AudioBlock], /) -> Iterator[list[Event]]:
        """Note them, one by one."""
        for each in blocks:
            yield self.step(each)


class Quiet:
    """Stands where source, effects and journal stand; nothing comes of itself."""

    reasons = ()

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.states: list[SourceState] = []

    def start(self) -> None:
        """Nobody comes."""

    def tend(self, _now_s: float) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def taken(self, state: SourceState) -> None:
        """Note it."""
        self.states.append(state)

    def hangs(self, _now_s: float) -> bool:
        """Never."""
        return False

    def carry_out(self, _events: Iterable[Event], _heard_s: float) -> None:
        """Nothing follows."""

    def load_household(self) -> Household:
        """Nobody is enrolled."""
        house = Household(clock.now_s(), ())
        self._inbox.put_consequence(house)
        return house

    def prepare_enrolment(self, command: Enrol) -> None:
        """Nobody enrols."""

    def recall(self) -> tuple[None, float]:
        """There was no daemon before."""
        return None, 0.0

    def beat(self, _heard_s: float) -> None:
        """Nobody is told."""


class StillBus:
    """Stands where the bus stands; nothing comes of itself, and its polls are counted."""

    room = 20

    def __init__(self) -> None:
        self.polls = 0

    def start(self) -> None:
        """Nothing to connect."""

    def stop(self) -> None:
        """Nothing to leave."""

    def poll(self, now_s: float) -> None:
        """Count it."""


class NoEncoder:
    """Stands where the encoder stands; it is never asked."""

    fingerprint = "ab" * 32

    def embed(self, samples: Floats) -> Floats:
        """Never called."""
        raise AssertionError(samples)


def loop(
    inbox: Inbox,
    bus: StillBus,
    flags: SignalFlags,
    *,
    engine: Taken | None = None,
    executor: Executor | None = None,
    quiet_delay_s: float = QUIET_DELAY_S,
) -> Daemon:
    """A daemon of stand-ins around the real inbox."""
    quiet = Quiet(inbox)
    points = (CalibrationPoint(3.0, 21.0, -8.7, 0.0, 0.3, {"1/100": (3.4,), "1/1000": (5.5,)}),)
    calibration = Calibration("ab" * 32, np.zeros(2, np.float32), points, 2.9, (3,), 0.5)

    def activity() -> VoiceActivity:
        raise AssertionError

    return Daemon(
        inbox=inbox,
        source=quiet,
        engine=engine or Taken(),
        enrolment=EnrolmentSession(activity, NoEncoder(), Policy(calibration, "1/100")),
        effects=executor or quiet,
        bus=bus,
        control=quiet,
        journal=quiet,
        flags=flags,
        log_limit=LogFilter(),
        quiet_delay_s=quiet_delay_s,
    )


def test_no_decision_rests_on_an_older_car_than_is_known() -> None:
    """What came over the bus goes before the sound that came earlier, a cancel before all."""
    inbox, flags, engine = Inbox(), SignalFlags(), Taken()
    sound: list[Sound] = []
    inputs: list[Input] = []

    class Bus(StillBus):
        """All comes at its first poll, the end at its second."""

        def poll(self, now_s: float) -> None:
            self.polls += 1
            if self.polls > 1:
                flags.stop = "the test"
                return
            # From now, and not from before the daemon was made: old sound is not heard.
            lost = SourceState(now_s, SourceHealth.LOST, "gone")
            spliced = replace(block(now_s), gap=True)
            sound.extend([block(now_s), block(now_s), lost, spliced, block(now_s)])
            inputs.extend([Cancel(now_s, "c1"), VehicleReport(now_s, VehicleState())])
            for item in sound:
                inbox.put_sound(item)
            for told in inputs:
                inbox.put(told)

    assert loop(inbox, Bus(), flags, engine=engine).run() is None
    expected = [id(item) for item in (*inputs, *sound)]
    assert [id(item) for item in engine.items if id(item) in expected] == expected


def test_what_becomes_of_the_microphone_ends_a_delay() -> None:
    """A device that opens or goes away is told at once, however long sound may gather."""
    inbox, flags = Inbox(), SignalFlags()
    lost = SourceState(0.0, SourceHealth.LOST, "gone")

    class Bus(StillBus):
        """The microphone is lost during the delay that follows its first poll."""

        def poll(self, now_s: float) -> None:
            del now_s
            self.polls += 1
            if self.polls == 1:
                Timer(0.05, inbox.put_sound, [lost]).start()
            else:
                flags.stop = "the test"

    inbox.put_sound(SourceState(0.0, SourceHealth.OPEN))
    assert loop(inbox, Bus(), flags, quiet_delay_s=3600.0).run() is None


def test_consequences_take_effect_before_the_next_block() -> None:
    """What an effect changes is known to the engine before anything else that came, sound too."""
    inbox, flags, engine = Inbox(), SignalFlags(), Taken()
    now_s = clock.now_s()
    first, second = block(now_s), block(now_s)
    house, answer = Household(now_s, ()), Executed(now_s, ())

    class Effect(Quiet):
        """The first block changes the household, and that is to be told."""

        def carry_out(self, _events: Iterable[Event], _heard_s: float) -> None:
            if engine.items[-1] is first:
                inbox.put(VehicleReport(now_s, VehicleState()))
                inbox.put_consequence(house)
                inbox.put_consequence(answer)

    class Bus(StillBus):
        """It ends at its first poll."""

        def poll(self, now_s: float) -> None:
            del now_s
            flags.stop = "the test"

    for item in (first, second):
        inbox.put_sound(item)
    loop(inbox, Bus(), flags, engine=engine, executor=Effect(inbox), quiet_delay_s=0.0).run()
    assert [id(item) for item in engine.items[-4:]] == [
        id(i) for i in (first, house, answer, second)
    ]


def test_sound_in_time_is_heard_whole() -> None:
    """Who keeps up hears every block, without a gap."""
    items = [block(1.0), block(1.03)]
    assert drop_backlog(items, 1.0 + LATE_S) == (items, 0)


def test_who_is_behind_gives_up_the_oldest_sound_and_nothing_else() -> None:
    """Of the sound only the last block is left, and says that it does not follow the one before."""
    lost = SourceState(1.01, SourceHealth.LOST, "gone")
    back = SourceState(1.02, SourceHealth.OPEN)
    items: list[Sound] = [block(1.0), lost, back, block(1.03), block(1.06)]
    kept, dropped = drop_backlog(items, 1.0 + LATE_S + 0.1)
    assert dropped == 2
    assert [item for item in kept if not isinstance(item, AudioBlock)] == [lost, back]
    (last,) = (item for item in kept if isinstance(item, AudioBlock))
    assert (last.at_s, last.gap) == (1.06, True)
