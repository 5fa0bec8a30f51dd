"""The real things that tests need: a microphone that can be unplugged, a broker, people speaking.

None of them is replaced when it is missing: the test fails and says what to install.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import hypothesis
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

# The same examples everywhere, and no deadline: a busy machine is not a fault.
hypothesis.settings.register_profile("whodrives", deadline=None, derandomize=True)
hypothesis.settings.load_profile("whodrives")

pytest_plugins = [
    "tests.scenarios.stage",
    "tests.integration.running",
]  # the fixtures of stories and running daemons

REPOSITORY = Path(__file__).parent.parent
PROMPTS = Path("/usr/share/asterisk/sounds")
PROMPT_FOLDERS = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
G722_BYTES_PER_S = 8000
START_LIMIT_S = 20.0
RAW = ("--raw", "--rate=16000", "--channels=1", "--format=s16le", "--latency-msec=20")
SERVER_OPTIONS = ("-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no")

Prompts = Callable[..., list[NDArray[np.float32]]]


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def repeatedly(act: Callable[[], object], every_s: float) -> Iterator[None]:
    """Act every so many seconds, on a thread, for as long as the block runs."""
    over = threading.Event()

    def acting() -> None:
        while not over.wait(every_s):
            act()

    thread = threading.Thread(target=acting)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def pytest_configure() -> None:
    """Let programs under test be interrupted, also if the tests run as a shell's background job.

    A non-interactive shell starts such a job with SIGINT ignored, and every process inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be written anew; their diff is then reviewed."""
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever hears the virtual microphone listens to real time; the hour is asked for by name."""
    for item in items:
        if "virtual_microphone" in getattr(item, "fixturenames", ()):
            item.add_marker("realtime")
    if "hour" not in config.getoption("markexpr"):
        # Not by a -m in pyproject.toml: any other -m takes its place, and an hour is added.
        items[:] = [item for item in items if item.get_closest_marker("hour") is None]


def program(name: str, package: str) -> str:
    """Path of a program, or a failed test that says which Debian package brings it."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if path is None:
        pytest.fail(f"{name} is missing: apt-get install -y --no-install-recommends {package}")
    return path


def wait_until(ready: Callable[[], bool], what: str) -> None:
    """Return once `ready` is true; fail the test if that takes more than START_LIMIT_S."""
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {START_LIMIT_S:.0f} s in vain until {what}")
        time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process and wait; kill it if it does not listen."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class VirtualMicrophone:
    """A private pulseaudio whose source `mic` hears what is played; ALSA and PortAudio see it.

    The device is called "pulse" (and "default") and gives 16 kHz mono. There is a second one, at
    48 kHz stereo: play with `sink=CABIN`, and set PULSE_SOURCE=cabin_mic to hear that one.

    Attributes:
        environment: complete environment for a program that shall hear this microphone.
    """

    MIC = "mic"
    CABIN = "cabin_mic"

    def __init__(self, folder: Path) -> None:
        """Prepare a server that lives below `folder`, which must be short: it holds a socket."""
        self._server_program = program(
            "pulseaudio", "pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
        )
        program("pactl", "pulseaudio-utils")
        self._folder = folder
        runtime, home = folder / "xdg", folder / "home"
        for path in (runtime, home):
            path.mkdir(mode=0o700)
        self._socket = runtime / "pulse.sock"
        config = folder / "client.conf"
        config.write_text("autospawn = no\nenable-shm = no\n")
        self.settings = {
            "XDG_RUNTIME_DIR": str(runtime),
            "PULSE_SERVER": f"unix:{self._socket}",
            "PULSE_SOURCE": "mic",
            "PULSE_COOKIE": str(folder / "cookie"),
            "PULSE_CLIENTCONFIG": str(config),
        }
        self.environment = {**os.environ, **self.settings, "HOME": str(home)}
        self._modules: list[str] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._players: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the sound server and plug the microphone in."""
        protocol = "module-native-protocol-unix auth-anonymous=1"
        with (self._folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._server_program, *SERVER_OPTIONS, "-L", f"{protocol} socket={self._socket}"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, "pulseaudio answers")
        self.plug()

    def kill_server(self) -> None:
        """Let the sound server die at once, as in a crash."""
        self._stop_players()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        self._server = None
        self._modules.clear()
        self._socket.unlink(missing_ok=True)

    def plug(self) -> None:
        """Plug the microphone in; return once it gives sound."""
        self._load(self.MIC, rate_hz=16_000, channels=1)
        self._load(self.CABIN, rate_hz=48_000, channels=2)

    def unplug(self) -> None:
        """Pull the microphone out: its source is gone and streams on it break."""
        self._stop_players()
        while self._modules:
            self._control("unload-module", self._modules.pop())

    def suspend(self) -> None:
        """Let the microphone stall: it stays there and gives no sound."""
        self._control("suspend-source", self.MIC, "1")

    def resume(self) -> None:
        """Let the microphone go on after `suspend`."""
        self._control("suspend-source", self.MIC, "0")

    def freeze(self) -> None:
        """Let the sound server hang: whoever asks it for anything waits."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the sound server go on after `freeze`."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def play(
        self,
        sound: Path | NDArray[np.float32],
        rate_hz: int = 16_000,
        *,
        wait: bool = True,
        sink: str = MIC,
    ) -> subprocess.Popen[bytes]:
        """Play a file, or samples of shape (n,) or (n, channels), into the microphone.

        Returns at the end of the sound, or at once with `wait=False`: then call `.wait()` on the
        result. `sink` is MIC or CABIN.
        """
        path = sound if isinstance(sound, Path) else self._wav(sound, rate_hz)
        player = self._player(sink, str(path))
        if wait and player.wait() != 0:
            pytest.fail(f"paplay could not play {path}")
        return player

    def stop(self) -> None:
        """End every process of this microphone."""
        self._stop_players()
        if self._server is not None:
            end(self._server)
            self._server = None

    def _wav(self, samples: NDArray[np.float32], rate_hz: int) -> Path:
        path = self._folder / f"played-{len(list(self._folder.glob('played-*')))}.wav"
        soundfile.write(path, samples, rate_hz, subtype="PCM_16")
        return path

    def _load(self, source: str, rate_hz: int, channels: int) -> None:
        """Make a source that hears the sink `<source>_in`, and keep it awake."""
        sink = [f"sink_name={source}_in", f"rate={rate_hz}", f"channels={channels}"]
        ear = [f"source_name={source}", f"master={source}_in.monitor"]
        for module in (["module-null-sink", "format=s16le", *sink], ["module-remap-source", *ear]):
            self._modules.append(self._control("load-module", *module))
        # A silent stream keeps the latency low; a null sink's first buffer lasts two seconds.
        self._player(source, *RAW, "/dev/zero")
        with subprocess.Popen(
            ["parec", f"--device={source}", *RAW], env=self.environment, stdout=subprocess.PIPE
        ) as listener:
            assert listener.stdout is not None
            heard = listener.stdout.read(6400)
            listener.terminate()
        assert heard, f"the virtual microphone {source} gives no sound"

    def _control(self, *arguments: str) -> str:
        done = subprocess.run(
            ["pactl", *arguments], env=self.environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def _answers(self) -> bool:
        asked = subprocess.run(
            ["pactl", "info"], env=self.environment, check=False, capture_output=True
        )
        return asked.returncode == 0

    def _player(self, sink: str, *arguments: str) -> subprocess.Popen[bytes]:
        player = subprocess.Popen(
            ["paplay", f"--device={sink}_in", *arguments],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._players.append(player)
        return player

    def _stop_players(self) -> None:
        while self._players:
            end(self._players.pop())


@pytest.fixture(scope="module")
def virtual_microphone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMicrophone]:
    """A real microphone for PortAudio, without a sound card: see `VirtualMicrophone`.

    `play(path_or_samples)` speaks into it; `unplug`, `plug`, `suspend`, `resume`, `freeze`, `thaw`
    and `kill_server` are its accidents. The test's own process hears it too (PULSE_* are set while
    the module runs).
    """
    microphone = VirtualMicrophone(tmp_path_factory.mktemp("mic"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in microphone.settings.items():
            patch.setenv(name, value)
        try:
            microphone.start()
            yield microphone
        finally:
            _forget_portaudio()
            microphone.stop()


def _forget_portaudio() -> None:
    """Close this process's connection to the sound server before the server ends."""
    if (sounddevice := sys.modules.get("sounddevice")) is not None:
        sounddevice._terminate()
        sounddevice._initialize()


class Broker:
    """A private mosquitto on loopback: MQTT 3.1.1 and 5, anonymous, nothing kept on disk.

    Attributes:
        host: its address.
        port: its TCP port, the same after every start.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        """Choose a free port and write the configuration into `folder`."""
        self._program = program("mosquitto", "mosquitto")
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} {self.host}\nallow_anonymous true\npersistence false\n"
        )
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the broker and return once it takes connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._config)], stdout=log, stderr=log
            )
        wait_until(self._listens, f"mosquitto listens (its log is {self._log})")

    def stop(self) -> None:
        """Stop the broker: connections break, and retained messages are forgotten."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def freeze(self) -> None:
        """Let the broker hang: connections stay, and nothing comes through them."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the broker go on after `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A fresh mosquitto for one test, started; `stop` and `start` are its accidents."""
    server = Broker(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def human_prompts() -> Prompts:
    """People speaking, in studio quality: `prompts(language, count=10, min_seconds=2.0)`.

    Gives `count` arrays of float32 samples, shape (n,), 16 kHz mono, each a different recording of
    `min_seconds` to `max_seconds` (15.0), always the same ones. Languages: en, es, fr, it, ru.
    `en` and `es` are one woman, the others are three more people. From Debian's
    asterisk-core-sounds-*-g722.
    """

    def prompts(
        language: str, count: int = 10, min_seconds: float = 2.0, max_seconds: float = 15.0
    ) -> list[NDArray[np.float32]]:
        folder = PROMPTS / PROMPT_FOLDERS[language]
        if not folder.is_dir():
            packages = " ".join(f"asterisk-core-sounds-{name}-g722" for name in PROMPT_FOLDERS)
            pytest.fail(
                f"{folder} is missing: apt-get install -y --no-install-recommends {packages}"
            )
        # Some sentences are there under several names.
        sizes = range(int(min_seconds * G722_BYTES_PER_S), int(max_seconds * G722_BYTES_PER_S) + 1)
        fitting = [p for p in sorted(folder.glob("*.g722")) if p.stat().st_size in sizes]
        different = list({path.read_bytes(): path for path in fitting}.values())
        if len(different) < count:
            pytest.fail(f"{folder} has only {len(different)} prompts of that length, not {count}")
        return [_decode_g722(path) for path in different[:count]]

    return prompts


def _decode_g722(path: Path) -> NDArray[np.float32]:
    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return (np.concatenate(frames) / 32768).astype(np.float32)


@pytest.fixture(scope="session")
def voices() -> Path:
    """Folder of the demo's synthetic voices: `<voice>/<n>.opus`, described by manifest.json."""
    folder = REPOSITORY / "profiles" / "demo" / "voices"
    entries: Sequence[object] = json.loads((folder / "manifest.json").read_text())
    assert entries, f"{folder}/manifest.json names no file"
    return folder
