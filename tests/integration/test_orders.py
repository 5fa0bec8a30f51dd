"""What the head unit asks of the store: real files and a real daemon, whose loop does not run."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.installation import POSITION, Installation
from whodrives import clock
from whodrives.config.location import load_config
from whodrives.core.events import Event, Input
from whodrives.enrolment.prompts import CONSENT_VERSION
from whodrives.enrolment.types import Enrol, EnrolmentStage, EnrolmentState
from whodrives.service.claim import Claim
from whodrives.service.household import household
from whodrives.service.log import LogFilter
from whodrives.service.signals import SignalFlags
from whodrives.service.wiring import build_daemon, open_store
from whodrives.store.journal import Journal
from whodrives.store.profiles import ProfileStore
from whodrives.trip.trip import STEADY_S
from whodrives.trip.types import (
    Begin,
    Choose,
    CommandResult,
    DriverState,
    Forget,
    LinkState,
    PersistTrip,
    Position,
    Save,
)
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState

pytestmark = pytest.mark.much_speech

ELSEWHERE = "Vehicle.Chassis.SteeringWheel.Tilt"


class Stage:
    """A daemon in a parked car, driven by hand.

    Attributes:
        daemon: the daemon.
        store: another view of its store.
        told: the events that it gave to the bus.
        driver: the one who is enrolled.
    """

    def __init__(self, installed: Installation, driver: str) -> None:
        settings = load_config(installed.config)
        self.daemon = build_daemon(settings, lambda: settings, SignalFlags(), Claim(), LogFilter())
        self.store: ProfileStore = open_store(settings)
        self.driver = driver
        self.told: list[Event] = []
        self.daemon._bus.publish = self._hear  # type: ignore[attr-defined]
        now_s = clock.now_s()
        self.take(Begin(now_s, "test"))
        self.take(household(self.store, now_s))
        self.take(LinkState(now_s, connected=True))
        self.take(VehicleReport(now_s, self._parked(now_s)))
        self.take(Choose(now_s, "c0", driver))

    def _hear(self, event: Event) -> bool:
        self.told.append(event)
        return True

    @staticmethod
    def _parked(now_s: float, *, switched: bool = False) -> VehicleState:
        yes, no = Reading(value=True, at_s=now_s), Reading(value=False, at_s=now_s)
        return VehicleState(Reading(0.0, now_s), yes, yes, no, yes, yes, yes if switched else no)

    def take(self, news: Input) -> None:
        """One input, in the daemon's own way."""
        self.daemon.handle(news)

    def save(self, **signals: float) -> None:
        """The seat stands there, and it is good so."""
        now_s = clock.now_s()
        self.take(VehicleReport(now_s, self._parked(now_s, switched=True)))
        for age_s in (STEADY_S, 0.0):
            self.take(Position(now_s, now_s - age_s, moving=False, signals=signals))
        self.take(Save(now_s, "c1"))

    def result(self) -> tuple[str, str]:
        """The last command that was answered, and why it was refused."""
        last = [event for event in self.told if isinstance(event, CommandResult)][-1]
        return last.command, last.reason

    def preferences(self) -> dict[str, float]:
        """Of the driver, as stored."""
        (stored,) = self.store.load().profiles
        return dict(stored.profile.preferences)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, voices: Path) -> tuple[Installation, str]:
    """An installation with one driver."""
    installation = Installation(tmp_path_factory.mktemp("orders"))
    return installation, installation.enrol("Quirina", voices / "af_bella", **{POSITION: 120})


@pytest.fixture
def stage(enrolled: tuple[Installation, str], tmp_path: Path) -> Stage:
    """A daemon with a copy of that household."""
    (tmp_path / "profiles").mkdir(mode=0o700)
    for name, data in enrolled[0].stored().items():
        folder = tmp_path if name == "profile-key" else tmp_path / "profiles"
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    return Stage(Installation(tmp_path), enrolled[1])


def test_a_saved_position_is_stored_told_and_used(stage: Stage) -> None:
    """The store has it, with the one before; the answer comes once; the next trip asks for it."""
    stage.save(**{POSITION: 99.0})
    assert stage.preferences() == {POSITION: 99.0}
    assert stage.store.load().profiles[0].previous == {POSITION: 120.0}
    assert stage.result() == ("c1", "")
    assert [e.command for e in stage.told if isinstance(e, CommandResult)] == ["c0", "c1"]


def test_a_position_outside_the_car_is_not_stored(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """An ECU that reports nonsense changes nothing, and the head unit is told."""
    stage.save(**{POSITION: 5000.0, ELSEWHERE: 50.0})
    assert stage.preferences() == {POSITION: 120.0}
    assert stage.result() == ("c1", "not_stored")
    assert "Quirina" not in caplog.text


def _disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_store_that_cannot_be_written_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: what was stored stays, the daemon goes on."""
    monkeypatch.setattr("os.fsync", _disk_full)
    stage.save(**{POSITION: 99.0})
    monkeypatch.undo()
    assert stage.result() == ("c1", "not_stored")
    assert stage.preferences() == {POSITION: 120.0}


def test_nobody_is_asked_to_speak_for_a_store_that_cannot_be_written(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head unit is answered before anybody speaks; later it may try again."""
    command = Enrol(clock.now_s(), "c1", None, "account-3", CONSENT_VERSION)
    monkeypatch.setattr("os.posix_fallocate", _disk_full)
    stage.take(command)
    monkeypatch.undo()
    assert stage.result() == ("c1", "not_stored")
    assert not [event for event in stage.told if isinstance(event, EnrolmentState)]
    stage.take(replace(command, command="c2"))
    (state,) = [event for event in stage.told if isinstance(event, EnrolmentState)]
    assert state.stage is EnrolmentStage.LISTENING


def test_a_forgotten_driver_is_gone_at_once(stage: Stage) -> None:
    """File, driver and recognition, without a restart; then the answer."""
    stage.take(Forget(clock.now_s(), "c1", stage.driver))
    assert stage.store.load().profiles == ()
    assert stage.result() == ("c1", "")
    (last,) = [event for event in stage.told if isinstance(event, DriverState)][-1:]
    assert last.driver is None


@pytest.mark.parametrize("who", ["Quirina", "d-00000000", "../profile-key"])
def test_only_an_id_is_forgotten(stage: Stage, who: str, caplog: pytest.LogCaptureFixture) -> None:
    """A name is not for the bus, and no path leads out of the store."""
    stage.take(Forget(clock.now_s(), "c1", who))
    assert stage.result() == ("c1", "unknown_driver")
    assert len(stage.store.load().profiles) == 1
    assert who not in caplog.text


def test_the_journal_knows_before_the_bus_does(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a request is sent, a daemon that starts now would know its id."""
    path = stage.daemon._journal._path  # type: ignore[attr-defined]
    known: list[bool] = []

    def look(event: Event) -> bool:
        memory, _ = Journal(path, lambda: stage.store.derived_key("trip")).recall()
        assert memory is not None
        assert not isinstance(event, PersistTrip)
        if request := getattr(event, "request", None):
            known.append(request in {r.request for r in memory.outbox.requests})
        return True

    monkeypatch.setattr(stage.daemon._bus, "publish", look)
    now_s = clock.now_s()
    stage.take(Choose(now_s, "c1", None))
    stage.take(Choose(now_s, "c2", stage.driver))
    assert known == [True, True]
