"""Drills: each takes something from a running daemon, and sees it come back without a restart.

docs/faults.md lists them with what is promised.
"""

import resource
import signal
from pathlib import Path

import psutil
import pytest

from tests.conftest import Broker, VirtualMicrophone
from tests.integration.installation import POSITION, Installation
from tests.integration.running import Car, Running, Start, pcm
from tools.bench.live import starved

pytestmark = pytest.mark.realtime

ONLINE: tuple[str, list[str]] = ("online", [])


@pytest.fixture
def hearing(installed: Installation) -> Installation:
    """The household, listening to the virtual microphone."""
    installed.configure(sound={"device": "pulse"})
    return installed


@pytest.fixture
def daemon(
    run: Start, hearing: Installation, car: Car, virtual_microphone: VirtualMicrophone
) -> Running:
    """A daemon of that household that hears the microphone."""
    running = run(hearing, virtual_microphone.environment)
    car.until(lambda: car.status() == ONLINE, "the microphone is heard")
    return running


@pytest.fixture
def sentence(voices: Path) -> Path:
    """What the driver says."""
    return voices / "af_bella" / "5.opus"


def say(microphone: VirtualMicrophone, sentence: Path) -> None:
    """Speak into the microphone."""
    microphone.play(sentence, wait=False)


def known_again(car: Car, microphone: VirtualMicrophone, sentence: Path) -> None:
    """Return once the microphone is heard and the driver known."""
    car.until(lambda: car.status() == ONLINE, "the microphone is back")
    say(microphone, sentence)
    car.until(lambda: car.last("driver").get("driver"), "the driver is known")


# --- the microphone -------------------------------------------------------------------------------


@pytest.mark.usefixtures("daemon")
def test_a_microphone_that_stalls_is_told_and_heard_again(
    car: Car,
    virtual_microphone: VirtualMicrophone,
    sentence: Path,
) -> None:
    """Open and without callbacks: degraded with the reason; sound returns, and so do we."""
    virtual_microphone.suspend()
    try:
        silent = ("degraded", ["source: the device gives no sound"])
        car.until(lambda: silent in car.statuses(), "the stall is told")
    finally:
        virtual_microphone.resume()
    known_again(car, virtual_microphone, sentence)


@pytest.mark.usefixtures("daemon")
def test_a_sound_server_that_is_killed_is_waited_for(
    car: Car,
    virtual_microphone: VirtualMicrophone,
    sentence: Path,
) -> None:
    """Its death is told, tries go on, and the new server's microphone is heard."""
    virtual_microphone.kill_server()
    try:
        car.until(lambda: car.status()[0] == "degraded", "the loss is told")
    finally:
        virtual_microphone.start()
    known_again(car, virtual_microphone, sentence)


def test_a_microphone_that_refuses_at_the_start_is_waited_for(
    run: Start,
    hearing: Installation,
    car: Car,
    virtual_microphone: VirtualMicrophone,
    sentence: Path,
) -> None:
    """Not there, or another program's: degraded with the system's reason, and tried again."""
    virtual_microphone.unplug()
    try:
        run(hearing, virtual_microphone.environment)
        car.until(lambda: "does not open" in str(car.status()), "the refusal is told")
    finally:
        virtual_microphone.plug()
    known_again(car, virtual_microphone, sentence)


def test_a_sound_server_that_hangs_hangs_nothing_of_ours(
    daemon: Running,
    car: Car,
    virtual_microphone: VirtualMicrophone,
    sentence: Path,
) -> None:
    """The bus lives, the watchdog is no longer fed, and when the server goes on we hear it."""
    virtual_microphone.freeze()
    try:
        hangs = ("degraded", ["source: the sound system does not answer"])
        car.until(lambda: car.status() == hangs, "the reason is told")
        told = len(car.all("metrics"))
        car.until(lambda: len(car.all("metrics")) > told, "the loop turns")
        assert "WATCHDOG=1" not in daemon.notified_within(3.0)
    finally:
        virtual_microphone.thaw()
    known_again(car, virtual_microphone, sentence)
    daemon.notified("WATCHDOG=1")


def test_a_stop_does_not_wait_for_a_sound_server_that_hangs(
    daemon: Running, car: Car, virtual_microphone: VirtualMicrophone
) -> None:
    """SIGTERM, `offline` and exit code 0 as always, though the device never closes."""
    virtual_microphone.freeze()
    try:
        daemon.process.terminate()
        assert daemon.ended() == 0
        car.until(lambda: car.status() == ("offline", ["stopped"]), "offline is told")
    finally:
        virtual_microphone.thaw()


# --- the broker -----------------------------------------------------------------------------------


def test_a_broker_that_hangs_is_left_and_told_everything_when_it_goes_on(
    run: Start, installed: Installation, broker: Broker, car: Car, sentence: Path
) -> None:
    """Half open: recognition goes on, and the retained state is right again afterwards."""
    daemon = run(installed)
    car.until(lambda: car.status() == ONLINE, "the daemon is online")
    broker.freeze()
    try:
        daemon.say(pcm(sentence))
        daemon.logged("event=recognition outcome=known")
        daemon.logged("event=broker_lost")
    finally:
        broker.thaw()
    later = Car(broker)
    later.until(lambda: later.status()[0] == daemon.health, "the retained status is right")
    assert daemon.process.poll() is None
    later.close()


# --- settings -------------------------------------------------------------------------------------


def test_a_reload_takes_in_new_settings_and_keeps_the_trip(
    daemon: Running,
    hearing: Installation,
    car: Car,
    virtual_microphone: VirtualMicrophone,
    sentence: Path,
) -> None:
    """Another microphone after SIGHUP, in the same process; who drives is known without a word."""
    known_again(car, virtual_microphone, sentence)
    driver = car.last("driver")["driver"]
    hearing.configure(sound={"device": "no such microphone"})
    daemon.process.send_signal(signal.SIGHUP)
    car.until(lambda: "no such microphone" in str(car.status()), "the new settings are used")
    car.until(lambda: car.last("driver").get("driver") == driver, "the driver is told again")
    hearing.configure(sound={"device": "pulse"})
    daemon.process.send_signal(signal.SIGHUP)
    car.until(lambda: car.status() == ONLINE, "the microphone is heard")
    assert daemon.log.count("event=resumed") == 2
    daemon.process.terminate()
    assert daemon.ended() == 0


@pytest.mark.parametrize(
    "mistake",
    [
        ({"sound": {"rate_hz": "fast"}}, "sound.rate_hz"),
        ({"mqtt": {"host": "192.0.2.7"}}, "mqtt.tls"),
        ({"models": {"directory": "nowhere"}}, "nowhere"),
        ({"sound": {"source": "-"}}, "restart whodrives"),
    ],
)
def test_a_reload_of_what_cannot_work_says_why_and_changes_nothing(
    daemon: Running,
    hearing: Installation,
    car: Car,
    virtual_microphone: VirtualMicrophone,
    mistake: tuple[dict[str, dict[str, object]], str],
) -> None:
    """The reason is logged, the daemon goes on as it was, and the profiles are read anew."""
    sections, said = mistake
    hearing.configure(**sections)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.logged("event=reloaded enrolled=1")
    (reason,) = [line for line in daemon.log.splitlines() if "event=not_configured" in line]
    assert said in reason
    virtual_microphone.unplug()
    try:
        car.until(lambda: car.status()[0] == "degraded", "the daemon goes on as it was")
    finally:
        virtual_microphone.plug()
    car.until(lambda: car.status() == ONLINE, "the microphone is back")


# --- the machine ----------------------------------------------------------------------------------


def test_a_full_disk_costs_what_was_to_be_kept_and_nothing_else(
    run: Start, installed: Installation, car: Car, sentence: Path
) -> None:
    """Nothing can be written: the driver is known, the seat moves, the profiles are whole."""
    before = installed.stored()
    daemon = run(installed)
    car.until(lambda: car.last("driver"), "the trip is open")
    no_bytes = (0, resource.RLIM_INFINITY)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, no_bytes)
    daemon.say(pcm(sentence) + bytes(3200))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    assert car.last("preferences/apply")["signals"] == {POSITION: 120}
    assert installed.stored() == before
    assert daemon.process.poll() is None


def test_a_tenth_of_a_processor_is_enough(
    daemon: Running,
    car: Car,
    virtual_microphone: VirtualMicrophone,
    sentence: Path,
) -> None:
    """Starved, the daemon loses no sound and knows its driver."""
    with starved(daemon.process.pid, 0.1):
        say(virtual_microphone, sentence)
        car.until(lambda: car.last("driver").get("driver"), "the driver is known")
    assert "event=behind" not in daemon.log


def test_without_enough_processor_the_oldest_speech_is_given_up(
    daemon: Running,
    car: Car,
    virtual_microphone: VirtualMicrophone,
    voices: Path,
    sentence: Path,
) -> None:
    """Four thousandths are not enough: sound is dropped, memory stays, and all comes back."""
    known_again(car, virtual_microphone, sentence)
    process = psutil.Process(daemon.process.pid)
    before = process.memory_info().rss
    with starved(daemon.process.pid, 0.004):
        for number in (1, 2, 3):
            virtual_microphone.play(voices / "bm_george" / f"{number}.opus")
        daemon.logged("event=behind")
    assert process.memory_info().rss - before < 8 * 1024 * 1024
    heard = len(car.all("recognition"))
    say(virtual_microphone, sentence)
    car.until(lambda: "known" in str(car.all("recognition")[heard:]), "the driver is known")
