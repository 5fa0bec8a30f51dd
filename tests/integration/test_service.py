"""The daemon as systemd runs it: a process, a real broker, sound from a pipe or a microphone."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Broker, VirtualMicrophone
from tests.integration.installation import POSITION, ROOT, Installation
from tests.integration.running import Car, Start, pcm
from whodrives import clock
from whodrives.config.location import load_config
from whodrives.service.wiring import open_store
from whodrives.store.journal import Journal
from whodrives.trip.types import OutboxSnapshot

pytestmark = pytest.mark.realtime

LOG_LINE = re.compile(r"""level=[A-Z]+ from=[\w.]+ event=\w+( \w+=('[^']*'|"[^"]*"|\S+))*""")
NOBODY = "profiles: no driver is enrolled"


# --- the whole way --------------------------------------------------------------------------------


def test_a_driver_is_told_and_no_name_leaves(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """A known voice moves the seat, and neither the log nor the bus ever hold a name."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    car.until(lambda: car.last("driver"), "the trip is open")
    daemon.say(pcm(voices / "af_bella" / "5.opus"))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    assert car.last("driver")["state"] == "known"
    assert car.last("preferences/apply")["signals"] == {POSITION: 120}
    daemon.process.send_signal(signal.SIGHUP)
    daemon.logged("event=reloaded enrolled=1 problems=0")
    daemon.pipe.close()
    assert daemon.ended() == 0
    car.until(lambda: car.status() == ("offline", ["stopped"]), "the daemon says that it ends")
    assert car.last("driver") == {}
    bus = b"".join(message.topic.encode() + message.payload for message in car.heard).decode()
    for name in ("Quirina", "Zabel"):
        assert name not in daemon.log + bus
    for line in daemon.log.splitlines():
        assert LOG_LINE.fullmatch(line), line


def test_metrics_say_which_encoder_and_how_much_waits(
    run: Start, installed: Installation, car: Car
) -> None:
    """What is counted comes from the loop itself, and not only from the bus."""
    run(installed)
    car.until(lambda: car.last("metrics"), "the daemon says how it does")
    told = car.last("metrics")
    manifest = json.loads((ROOT / "models" / "second.json").read_text())
    assert told["encoder"] == manifest["calibration"]["encoder"]
    assert told["requests"] == 0
    assert told["counters"]["connections"] == 1


def test_a_household_of_nobody_runs_and_says_so(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """Without drivers the daemon is degraded, hears people, and takes none of them for anybody."""
    for path in (installed.folder / "profiles").iterdir():
        path.unlink()
    daemon = run(installed)
    car.until(lambda: car.status() == ("degraded", [NOBODY]), "the reason is told")
    daemon.say(pcm(voices / "af_bella" / "5.opus"))
    car.until(lambda: car.last("recognition"), "an utterance is judged")
    assert car.last("recognition")["outcome"] == "unknown"
    assert car.last("driver").get("driver") is None


def test_a_reload_takes_in_who_was_enrolled_meanwhile(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """SIGHUP is enough: the first sentence is a stranger's, the second one a driver's."""
    daemon = run(installed)
    daemon.say(pcm(voices / "bm_george" / "5.opus"))
    car.until(lambda: car.last("recognition"), "the stranger is judged")
    assert car.last("recognition")["driver"] is None
    driver = installed.enrol("George", voices / "bm_george")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.logged("event=reloaded enrolled=2")
    daemon.say(pcm(voices / "bm_george" / "6.opus"))
    car.until(lambda: car.last("recognition")["driver"] == driver, "the driver is known")


def test_a_reload_forgets_who_was_forgotten(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """After `forget` and SIGHUP the voice is nobody's, and the status says that none is left."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    assert installed.run("drivers", "forget", "Quirina Zabel").returncode == 0
    daemon.process.send_signal(signal.SIGHUP)
    # A pipe that is silent meanwhile may be a second reason.
    car.until(lambda: car.status()[0] == "degraded" and NOBODY in car.status()[1], "nobody is left")
    daemon.say(pcm(voices / "af_bella" / "5.opus"))
    car.until(lambda: car.last("recognition"), "the voice is judged")
    assert car.last("recognition")["driver"] is None


# --- ends -----------------------------------------------------------------------------------------


def test_a_stop_is_told_to_the_car(run: Start, installed: Installation, car: Car) -> None:
    """SIGTERM ends with exit code 0 and a retained `offline`, for who comes later too."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    daemon.process.terminate()
    assert daemon.ended() == 0
    car.until(lambda: car.status() == ("offline", ["stopped"]), "offline is told")
    later = Car(car._broker)
    later.until(lambda: later.status() == ("offline", ["stopped"]), "offline is retained")
    later.close()


def test_a_killed_daemon_is_offline(run: Start, installed: Installation, car: Car) -> None:
    """The last will speaks for who cannot."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    daemon.process.kill()
    lost = ("offline", ["the connection was lost"])
    car.until(lambda: car.status() == lost, "the broker tells the last will")


def test_a_pipe_that_stalls_stops_nothing(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """In the middle of a block: the status says so, the bus lives, sound returns, SIGTERM ends."""
    daemon = run(installed)
    daemon.say(bytes(961))
    stalled = ("degraded", ["source: the pipe gives no sound"])
    car.until(lambda: car.status() == stalled, "the stall is told")
    daemon.say(bytes(959) + pcm(voices / "af_bella" / "5.opus"))
    car.until(lambda: car.last("driver").get("driver"), "the driver is told")
    assert car.status() == ("online", [])
    daemon.say(bytes(961))
    daemon.process.terminate()
    assert daemon.ended() == 0
    assert "event=stopping reason='SIGTERM'" in daemon.log


def test_a_file_is_played_in_real_time_and_can_be_stopped(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """While the next block's time is waited for, signals and bus are served."""
    installed.configure(sound={"source": str(voices / "af_bella" / "5.opus")})
    daemon = run(installed)
    car.until(lambda: car.last("driver").get("driver"), "the driver is told")
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.ended() == 0
    car.until(lambda: car.status()[0] == "offline", "offline is told")


@pytest.mark.parametrize(
    ("sound", "said"),
    [(b"", "ended before any sound came"), (b"RIFF" + bytes(2000), "a file comes in")],
)
def test_a_pipe_without_raw_sound_ends_with_the_reason(
    run: Start, installed: Installation, car: Car, sound: bytes, said: str
) -> None:
    """Exit code 1, the fix on standard error, and the car is told that nobody listens."""
    daemon = run(installed)
    car.until(lambda: car.status()[0] == "online", "the daemon is online")
    daemon.say(sound)
    daemon.pipe.close()
    assert daemon.ended() == 1
    assert f"whodrives: the pipe: {said}" in daemon.log
    assert "Traceback" not in daemon.log
    car.until(lambda: car.status()[0] == "offline", "offline is told")


# --- systemd --------------------------------------------------------------------------------------


def test_systemd_is_kept_informed(run: Start, installed: Installation, car: Car) -> None:
    """Ready, health in words, the watchdog again and again, and the stop."""
    daemon = run(installed)
    daemon.notified("STATUS=online")
    daemon.notified("WATCHDOG=1")
    daemon.notified("STATUS=degraded: source: the pipe gives no sound")
    daemon.notified("WATCHDOG=1")
    car.until(lambda: car.status()[0] == "degraded", "the car knows it too")
    daemon.process.terminate()
    daemon.notified("STOPPING=1")
    assert daemon.ended() == 0


# --- accidents ------------------------------------------------------------------------------------


def test_a_broker_that_is_away_at_the_start_is_waited_for(
    run: Start, installed: Installation, broker: Broker, voices: Path
) -> None:
    """Recognition goes on without it; when it comes, it is told the state that holds now."""
    broker.stop()
    daemon = run(installed)
    daemon.logged("event=broker_lost")
    daemon.say(pcm(voices / "af_bella" / "5.opus"))
    daemon.logged("event=recognition outcome=known")
    broker.start()
    car = Car(broker)
    car.until(lambda: car.status()[0] == daemon.health, "the retained status is right")
    car.close()


def test_a_broker_that_restarts_is_told_everything_again(
    run: Start, installed: Installation, broker: Broker, car: Car, voices: Path
) -> None:
    """A broker that kept nothing has status and driver again; a request comes under its old id."""
    daemon = run(installed)
    car.until(lambda: car.last("driver"), "the trip is open")
    daemon.say(pcm(voices / "af_bella" / "5.opus") + bytes(3200))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    driver, request = car.last("driver")["driver"], car.last("preferences/apply")["request_id"]
    car.close()
    broker.stop()
    daemon.logged("event=broker_lost")
    broker.start()
    later = Car(broker)
    later.until(lambda: later.last("driver").get("driver") == driver, "the driver is told again")
    later.until(lambda: later.status()[0] == daemon.health, "the status is told again")
    later.until(lambda: later.last("preferences/apply"), "what nobody answered is asked again")
    assert later.last("preferences/apply")["request_id"] == request
    later.close()


def test_a_daemon_that_is_killed_leaves_its_trip_to_the_next(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """The driver is still the driver, without another word, and the request has its old id."""
    first = run(installed)
    car.until(lambda: car.last("driver"), "the trip is open")
    first.say(pcm(voices / "af_bella" / "5.opus") + bytes(3200))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    asked, driver = car.last("preferences/apply"), car.last("driver")["driver"]
    first.close()
    car.until(lambda: car.status()[0] == "offline", "the broker tells the last will")
    (installed.folder / "notify").unlink()
    second = run(installed)
    second.logged("event=resumed")
    car.until(lambda: car.last("driver").get("driver") == driver, "the driver is told again")
    car.until(lambda: car.last("preferences/apply")["issued_at"] != asked["issued_at"], "a repeat")
    again = [json.loads(m.payload) for m in car.heard if m.topic.endswith("preferences/apply")]
    assert {body["request_id"] for body in again} == {asked["request_id"]}


def test_a_second_daemon_for_the_car_says_who_serves_it_and_ends(
    run: Start, installed: Installation, car: Car, tmp_path: Path
) -> None:
    """Whatever its runtime folder is, it takes nothing from the first; a free place is taken."""
    first = run(installed)
    car.until(lambda: car.status()[0], "the first is there")
    runtime = tmp_path / "another"
    runtime.mkdir()
    second = installed.run("run", env={**os.environ, "RUNTIME_DIRECTORY": str(runtime)})
    assert second.returncode == 1
    assert f"whodrives runs already: process {first.process.pid} of user " in second.stderr
    assert "stop that one first" in second.stderr
    assert "Traceback" not in second.stderr
    assert [state for state, _ in car.statuses()].count("offline") == 0
    assert first.process.poll() is None
    first.close()
    (installed.folder / "notify").unlink()
    run(installed)


def test_a_daemon_that_was_away_for_long_does_not_trust_its_memory(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """A minute later somebody else may sit there: nobody is called the driver."""
    first = run(installed)
    car.until(lambda: car.last("driver"), "the trip is open")
    first.say(pcm(voices / "af_bella" / "5.opus") + bytes(3200))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    first.close()
    (installed.folder / "notify").unlink()
    (remembered,) = installed.folder.glob("trip-*.json")
    store = open_store(load_config(installed.config))
    journal = Journal(remembered, lambda: store.derived_key("trip"))
    memory, _ = journal.recall()
    assert memory is not None
    assert memory.opened_s is not None
    away_s = min(60.0, memory.opened_s)  # nothing was before the machine's start
    earlier = replace(
        memory,
        opened_s=memory.opened_s - away_s,
        since_s=(memory.since_s or 0.0) - away_s,
        outbox=OutboxSnapshot(),
    )
    journal.keep(earlier, clock.now_s() - away_s)
    second = run(installed)
    second.say(pcm(voices / "af_bella" / "6.opus") + bytes(3200))
    second.logged("event=recognition outcome=known")
    # What the first one left stays at the broker until the second speaks.
    car.until(lambda: car.status()[0] == second.health, "the second is there")
    assert car.last("driver").get("driver") is None


def test_a_microphone_that_is_pulled_out_and_put_back(
    run: Start,
    installed: Installation,
    car: Car,
    virtual_microphone: VirtualMicrophone,
    voices: Path,
) -> None:
    """Degraded with the reason while it is away, online and hearing again without a restart."""
    installed.configure(sound={"device": "pulse"})
    daemon = run(installed, virtual_microphone.environment)
    car.until(lambda: car.status() == ("online", []), "the microphone is heard")
    virtual_microphone.unplug()
    try:
        car.until(lambda: car.status()[0] == "degraded", "the loss is told")
        assert car.status()[1][0].startswith("source: ")
    finally:
        virtual_microphone.plug()
    car.until(lambda: car.status() == ("online", []), "the microphone is back")
    virtual_microphone.play(voices / "af_bella" / "5.opus", wait=False)
    car.until(lambda: car.last("driver").get("driver"), "the driver is known")
    assert daemon.process.poll() is None
    daemon.process.terminate()
    assert daemon.ended() == 0
