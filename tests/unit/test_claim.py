"""One car, one daemon, whoever starts it and wherever it keeps its files."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.conftest import repeatedly
from whodrives.config.schema import Config, Mqtt, ProfileFiles, Vehicle
from whodrives.errors import BusyError
from whodrives.service.claim import Claim, ask, holder

HOLD = """
import sys, time
from whodrives.service.claim import Claim
from whodrives.config.schema import Config, Mqtt, ProfileFiles, Vehicle
claim = Claim()
claim.take(Config(vehicle=Vehicle(sys.argv[1]), profiles=ProfileFiles(sys.argv[2], "key")))
print("held", flush=True)
time.sleep(60)
"""


Make: TypeAlias = Callable[[], Claim]


@pytest.fixture
def made() -> Iterator[Make]:
    """Makes claims that are let go of at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Claim()))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A car of this test alone."""
    car = f"claim-{os.getpid()}-{tmp_path.name.replace('_', '-').lower()}"[:64]
    return Config(vehicle=Vehicle(car), profiles=ProfileFiles(str(tmp_path / "a"), "key"))


def test_a_second_daemon_for_the_car_is_told_who_serves_it(made: Make, config: Config) -> None:
    """The text names the process; other files and another name for this machine change nothing."""
    first, second = made(), made()
    first.take(config)
    elsewhere = replace(
        config, profiles=ProfileFiles("/elsewhere", "key"), mqtt=Mqtt(host="localhost")
    )
    with pytest.raises(BusyError, match=f"process {os.getpid()} of user .* stop that one first"):
        second.take(elsewhere)
    assert str(os.getpid()) in holder(elsewhere)
    first.tend()


def test_a_second_daemon_for_the_profiles_is_told_who_uses_them(made: Make, config: Config) -> None:
    """Two cars cannot have one household's store, whatever their ids and brokers are."""
    first, second = made(), made()
    first.take(config)
    other = replace(config, vehicle=Vehicle("other-" + config.vehicle.id[:50]), mqtt=Mqtt(port=2))
    with pytest.raises(BusyError, match="serves the profiles in"):
        second.take(other)


def test_another_car_is_another_claim(made: Make, config: Config, tmp_path: Path) -> None:
    """A demo beside the car's own daemon hinders neither."""
    first, second = made(), made()
    first.take(config)
    other = replace(config, mqtt=Mqtt(port=2), profiles=ProfileFiles(str(tmp_path / "b"), "key"))
    second.take(other)
    second.keep_only(config)
    assert holder(other) == ""


def test_the_claim_is_kept_when_the_configuration_changes(made: Make, config: Config) -> None:
    """What both configurations need is never free in between; the rest is let go."""
    claim = made()
    claim.take(config)
    changed = replace(config, vehicle=Vehicle(config.vehicle.id[:60] + "-new"))
    claim.take(changed)
    claim.keep_only(changed)
    with pytest.raises(BusyError, match="the profiles"):
        made().take(config)
    made().take(replace(config, profiles=ProfileFiles("/elsewhere", "key")))


def test_a_daemon_that_was_killed_leaves_no_claim(made: Make, config: Config) -> None:
    """Nothing stale can block a restart."""
    names = [config.vehicle.id, config.profiles.directory]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *names], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {process.pid} "):
            made().take(config)
        process.send_signal(signal.SIGKILL)
        process.wait()
    made().take(config)


def test_however_many_ask_the_claim_holds(made: Make, config: Config) -> None:
    """Those who ask and are not heard are refused all the same."""
    first = made()
    first.take(config)
    for _ in range(100):
        with pytest.raises(BusyError, match="whodrives runs already"):
            made().take(config)
    first.tend()
    assert str(os.getpid()) in holder(config)


def test_the_daemon_tells_who_asks_why_it_cannot_work(made: Make, config: Config) -> None:
    """So `doctor` finds what only the running daemon knows, such as another daemon elsewhere."""
    first = made()
    first.take(config)
    reasons = ("broker: another whodrives serves this car", "source: the pipe gives no sound")
    with repeatedly(lambda: first.tend(reasons), 0.02):
        who, told = ask(config)
    assert str(os.getpid()) in who
    assert told == reasons
    assert ask(replace(config, mqtt=Mqtt(port=2), profiles=ProfileFiles("/x", "k"))) == ("", ())
