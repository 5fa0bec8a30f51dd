"""What goes wrong at the command line: named with its fix, and nothing that is stored is lost."""

import os
import pty
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from tests.conftest import Broker
from tests.integration.installation import MODELS, POSITION, Installation
from tests.integration.running import Car
from whodrives.audio.blocks import Floats
from whodrives.audio.files import read_file
from whodrives.config.schema import Config
from whodrives.models.calibration import load_calibration
from whodrives.store.profiles import ProfileStore

EX_CONFIG = 78
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory, voices: Path) -> Installation:
    """An installation with one driver, to be copied."""
    installation = Installation(tmp_path_factory.mktemp("household"))
    installation.enrol("Bella", voices / "af_bella", **{POSITION: 120})
    return installation


@pytest.fixture
def installed(household: Installation, tmp_path: Path) -> Installation:
    """That household in a folder of its own."""
    shutil.copytree(household.folder, tmp_path, dirs_exist_ok=True)
    return Installation(tmp_path)


@pytest.fixture
def refused(installed: Installation) -> Iterator[Refused]:
    """Runs a command that must fail: in words, with an exit code, and without a loss."""
    before = installed.stored()

    def run(*arguments: str | Path, code: int = 1, given: bytes = b"") -> str:
        done = installed.run(*arguments, given=given)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    yield run
    assert installed.stored() == before


def speech(voices: Path, voice: str = "bm_george") -> Floats:
    """About fourteen seconds of one person, 16 kHz."""
    files = [voices / voice / f"{number}.opus" for number in range(1, 5)]
    return np.concatenate([block.samples for path in files for block in read_file(path)])


# --- recordings -----------------------------------------------------------------------------------


def empty(path: Path, _: Floats) -> None:
    """No byte."""
    path.touch()


def no_sound(path: Path, _: Floats) -> None:
    """Text in a file that is called sound."""
    path.write_text("This is the answering machine.", encoding="utf-8")


def cut_short(path: Path, voice: Floats) -> None:
    """An interrupted copy."""
    soundfile.write(path, voice, 16_000)
    path.write_bytes(path.read_bytes()[:-50_000])


def telephone(path: Path, voice: Floats) -> None:
    """A recording at 8 kHz."""
    soundfile.write(path, soxr.resample(voice, 16_000, 8_000), 8_000)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (empty, "is empty (0 bytes); record it again"),
        (no_sound, "give a WAV, FLAC or Ogg Opus file"),
        (cut_short, "copy or record it again"),
        (telephone, "record at 16 kHz or more"),
        (lambda _path, _voice: None, "no such file; check the path"),
    ],
)
def test_a_recording_that_cannot_be_used_is_named(
    spoil: Callable[[Path, Floats], None],
    said: str,
    refused: Refused,
    tmp_path: Path,
    voices: Path,
) -> None:
    """Both commands refuse it with the file's name, what is wrong, and the fix."""
    path = tmp_path / "recording.wav"
    spoil(path, speech(voices))
    for command in (("enrol", "George", path, "--consent", "G"), ("replay", path)):
        text = refused(*command)
        assert text.startswith(f"whodrives: {path}: ")
        assert text.endswith(f"{said}\n")


def test_8_khz_that_was_brought_to_16_khz_is_found_by_every_command(
    installed: Installation, refused: Refused, tmp_path: Path, voices: Path
) -> None:
    """Quiet and in hiss, as a hands-free microphone may give it: never enrolled, never known."""
    narrow = soxr.resample(speech(voices) / 10, 16_000, 8_000)
    hiss = np.random.default_rng(1).normal(0, 1e-4, 2 * len(narrow))
    path = tmp_path / "hands-free.wav"
    soundfile.write(path, soxr.resample(narrow, 8_000, 16_000) + hiss, 16_000)
    assert "telephone_band: " in refused("enrol", "George", path, "--consent", "G")
    replayed = installed.run("replay", path).stdout
    assert '"reason": "telephone_band"' in replayed
    assert '"outcome": "known"' not in replayed
    installed.configure(sound={"source": str(path)})
    told = installed.run("doctor").stdout
    assert f"✗ sound: {path}: its speech is of telephone band" in told


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda voice: voice * 0, "too_short: 0.0 s of useful speech heard"),
        (lambda voice: voice[:32_000], "too_short: "),
        (lambda voice: np.clip(voice * 20, -1, 1), "clipped: "),
        (lambda voice: voice / 300, "too_quiet: "),
    ],
)
def test_a_recording_too_poor_to_enrol_from_is_refused_with_the_reason(
    spoil: Callable[[Floats], Floats], code: str, refused: Refused, tmp_path: Path, voices: Path
) -> None:
    """Silent, short, clipped or faint: a code, a sentence, and nobody is enrolled."""
    path = tmp_path / "recording.wav"
    soundfile.write(path, spoil(speech(voices)), 16_000)
    text = refused("enrol", "George", path, "--consent", "G")
    assert text.startswith(f"whodrives: {path}:\n")
    assert f"\n{code}" in text


@pytest.mark.parametrize(
    "spoil", [lambda voice: voice * 0, lambda voice: np.clip(voice * 50, -1, 1)]
)
def test_silence_and_clipping_are_replayed_as_what_they_are(
    spoil: Callable[[Floats], Floats], installed: Installation, tmp_path: Path, voices: Path
) -> None:
    """Poor sound is no error of the daemon's: it is heard, and taken for nobody who is enrolled."""
    path = tmp_path / "recording.wav"
    soundfile.write(path, spoil(speech(voices)), 16_000)
    done = installed.run("replay", path)
    assert done.returncode == 0, done.stderr
    assert '"outcome": "known"' not in done.stdout


def test_compact_disc_stereo_is_fine(installed: Installation, tmp_path: Path, voices: Path) -> None:
    """44.1 kHz, two channels, one of them silent: enrolled and recognised."""
    wide = soxr.resample(speech(voices), 16_000, 44_100)
    path = tmp_path / "recording.wav"
    soundfile.write(path, np.stack([np.zeros_like(wide), wide], axis=1), 44_100)
    assert installed.run("enrol", "George", path, "--consent", "G").returncode == 0
    assert '"outcome": "known"' in installed.run("replay", path).stdout


def test_the_channel_with_speech_is_heard_and_named(
    installed: Installation, tmp_path: Path, voices: Path
) -> None:
    """The first of two channels is louder and nothing but noise: an open input, a fan."""
    voice = speech(voices, "af_bella")
    noise = np.random.default_rng(1).normal(0, 0.3, voice.size).astype(np.float32)
    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([noise, voice / 4], axis=1), 16_000)
    done = installed.run("replay", path)
    assert f"whodrives: {path}: channel 2 of 2 is taken\n" in done.stderr
    assert '"outcome": "known"' in done.stdout
    installed.configure(sound={"source": str(path)})
    found = installed.run("doctor").stdout
    assert f"✓ sound: {path} can be read; channel 2 of 2 is taken" in found
    ran = installed.run("run")
    assert f"event=source file='{path}' reason='channel 2 of 2 is taken'" in ran.stderr


def test_a_file_of_one_channel_is_not_worth_a_word(installed: Installation, voices: Path) -> None:
    """Nothing was chosen."""
    assert installed.run("replay", voices / "af_bella" / "1.opus").stderr == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"at_s": 0}', ":1: KeyError('signals')"),
        ("park", ":1: "),
        ('{"at_s": NaN, "signals": {}}', ":1: "),
        ('{"at_s": 1e300, "signals": {}}', "at_s is not a number from 0 to 1000000000"),
        (f'{{"at_s": 1{"0" * 400}, "signals": {{}}}}', ":1: OverflowError"),
        ("[" * 100_000, ":1: RecursionError"),
        ('{"at_s": 9, "signals": {}}\n{"at_s": 1, "signals": {}}', ":1: at_s: the next line is"),
        ('{"at_s": 0, "signals": {"Vehicle.Speed": "fast"}}', "give a number of km/h"),
    ],
)
def test_a_wrong_line_about_the_car_is_named(
    text: str, said: str, refused: Refused, tmp_path: Path, voices: Path
) -> None:
    """File, line and fix; a misread car must not move anybody."""
    path = tmp_path / "car.jsonl"
    path.write_text(text, encoding="utf-8")
    told = refused("replay", voices / "af_bella" / "1.opus", "--vehicle", path)
    assert told.startswith(f"whodrives: {path}:1: ")
    assert said in told


# --- drivers --------------------------------------------------------------------------------------


def test_a_name_that_is_taken_stays_its_owners(refused: Refused, voices: Path) -> None:
    """Enrolling or renaming to a taken name changes nothing, in any case of letters."""
    sentences = [voices / "bm_george" / f"{number}.opus" for number in (1, 2, 3)]
    text = refused("enrol", "bella", *sentences)
    assert "bella is enrolled already; take another name, or give --again" in text


@pytest.mark.parametrize("action", ["show", "preferences", "forget", "rename"])
def test_a_driver_nobody_knows_is_named(action: str, refused: Refused) -> None:
    """The text says who was meant and how to see who there is."""
    text = refused("drivers", action, "Nemo", *(["Anna"] if action == "rename" else []))
    assert text.startswith("whodrives: no driver is called Nemo; ")
    assert "enrolled: Bella" in text or " drivers list` says who is enrolled" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (f"{POSITION}=900", "250"),
        (f"{POSITION}=far", "far"),
        (f"{POSITION}x=1", f"{POSITION}"),
        ("Bella", "--set Bella: is not PATH=VALUE"),
    ],
)
def test_a_preference_that_the_car_refuses_is_not_stored(
    change: str, said: str, refused: Refused
) -> None:
    """Out of range, no number, no such path, no value at all."""
    assert said in refused("drivers", "preferences", "Bella", "--set", change)


def test_preferences_from_a_file_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    """What is stored stays."""
    path = tmp_path / "bella.yaml"
    text = refused("drivers", "preferences", "Bella", "--file", path)
    assert text == f"whodrives: {path}: No such file or directory; give a file that can be read\n"


def test_a_profile_of_another_encoder_is_skipped_and_named(
    installed: Installation, household: Installation, voices: Path
) -> None:
    """It is never compared and never lost; the others go on."""
    store = ProfileStore(
        installed.folder / "profiles",
        installed.folder / "profile-key",
        "ab" * 32,
        {},
        Config().vehicle.id,
    )
    voice = np.eye(192, dtype=np.float32)[:3]
    old = store.save("Older", voice, 20.0).profile.id
    before = installed.stored()
    listed = installed.run("drivers")
    assert listed.returncode == 1
    assert "Bella" in listed.stdout
    assert f"profile {old}: was made by another encoder (abababababab" in listed.stderr
    assert "enrol this driver again" in listed.stderr
    done = installed.run("replay", voices / "af_bella" / "5.opus")
    assert done.returncode == 0
    assert '"outcome": "known"' in done.stdout
    assert f"profile {old}" in done.stdout
    assert f"✗ profiles: profile {old}" in installed.run("doctor").stdout
    assert installed.stored() == before
    assert set(household.stored()) < set(before)


@pytest.mark.parametrize("spoilt", ["profile", "key"])
def test_spoilt_profiles_and_keys_are_told_and_kept(
    spoilt: str, installed: Installation, refused: Refused
) -> None:
    """A changed byte, or a key that others can read: nobody is recognised, nothing is removed."""
    if spoilt == "key":
        (installed.folder / "profile-key").chmod(0o644)
        assert "run `chmod 600" in refused("drivers")
        done = installed.run("doctor")
        assert "chmod go= " in done.stdout
    else:
        (path,) = (installed.folder / "profiles").glob("*.profile")
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert f"profile {path.stem}: was changed" in refused("drivers")
        path.write_bytes(good)


def test_a_household_of_nobody(tmp_path: Path, voices: Path) -> None:
    """Nobody is enrolled: list, replay and doctor say so and how to begin."""
    installed = Installation(tmp_path)
    assert installed.run("drivers").stdout == (
        f"Nobody is enrolled. Begin with: whodrives --config {installed.config} enrol\n"
    )
    done = installed.run("replay", voices / "af_bella" / "5.opus")
    assert done.returncode == 0
    assert "profiles: no driver is enrolled" in done.stdout
    assert '"outcome": "unknown"' in done.stdout
    assert "✗ profiles: nobody is enrolled" in installed.run("doctor").stdout
    assert installed.stored() == {}


# --- configuration and models ---------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "drivers", "doctor", "config", "enrol Anna"])
def test_an_unknown_key_ends_every_command_with_78(
    command: str, installed: Installation, refused: Refused
) -> None:
    """Systemd does not retry what will not fix itself; the text knows what was meant."""
    installed.configure(mqtt={"prot": 1883})
    text = refused(*command.split(), code=EX_CONFIG)
    assert f"{installed.config}:" in text
    assert "mqtt.prot: is not a key" in text
    assert "did you mean port?" in text


def test_a_configuration_that_cannot_be_read(
    installed: Installation, refused: Refused, tmp_path: Path
) -> None:
    """Not there, a folder, or not text: named, with the fix."""
    installed.config = tmp_path / "nowhere.yaml"
    assert "nowhere.yaml: No such file or directory" in refused("config", code=EX_CONFIG)
    installed.config = tmp_path
    assert f"{tmp_path}: Is a directory" in refused("config", code=EX_CONFIG)
    installed.config = tmp_path / "picture.yaml"
    installed.config.write_bytes(b"\xff\xfe\x00")
    assert "save it as UTF-8" in refused("config", code=EX_CONFIG)


@pytest.mark.parametrize("model", ["encoder", "gate"])
def test_a_changed_model_is_not_run(
    model: str, installed: Installation, refused: Refused, tmp_path: Path
) -> None:
    """One byte is enough: 78, the file's name, and how to build it again."""
    models = tmp_path / "models"
    models.mkdir()
    for path in MODELS.iterdir():
        if path.stem != model or path.suffix != ".onnx":
            (models / path.name).symlink_to(path)
    changed = bytearray((MODELS / f"{model}.onnx").read_bytes())
    changed[len(changed) // 2] ^= 1
    (models / f"{model}.onnx").write_bytes(changed)
    installed.configure(models={"directory": str(models)}, sound={"source": "-"})
    for command in ("run", "enrol Anna"):
        text = refused(*command.split(), code=EX_CONFIG)
        assert f"{models / model}.onnx has sha256 " in text
        assert "build it again with: make models" in text
    assert f"✗ models: {models / model}.onnx" in installed.run("doctor").stdout


def test_models_that_are_not_there(installed: Installation, refused: Refused) -> None:
    """The folder that was looked in is named."""
    installed.configure(models={"directory": "/nowhere/models"})
    assert "/nowhere/models/encoder.json is missing" in refused("drivers", code=EX_CONFIG)


def test_tls_files_that_are_not_there_end_the_daemon_with_78(
    installed: Installation, refused: Refused
) -> None:
    """Settings of the broker that can never work are a wrong configuration."""
    tls = {"ca": "/nowhere/ca.pem", "certificate": "c.pem", "key": "k.pem"}
    installed.configure(mqtt={"tls": tls}, sound={"source": "-"})
    assert "mqtt.tls.ca: /nowhere/ca.pem" in refused("run", code=EX_CONFIG)


# --- what is not there ----------------------------------------------------------------------------


def deaf(home: Path) -> Mapping[str, str]:
    """An environment without any sound server, and so without a microphone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}
    return {**kept, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PULSE_SERVER": "unix:/none"}


def test_no_microphone_to_enrol_from(installed: Installation, tmp_path: Path) -> None:
    """Said before anybody speaks, and nobody is enrolled."""
    before = installed.stored()
    done = installed.run("enrol", "George", "--consent", "G", env=deaf(tmp_path))
    assert done.returncode == 1
    assert "whodrives: microphone" in done.stderr
    assert "plug it in" in done.stderr
    assert installed.stored() == before


def test_a_doctor_without_anything_says_how_to_mend_it(
    installed: Installation, tmp_path: Path
) -> None:
    """No microphone, no broker: a line for each with its fix, and what is well is told too."""
    done = installed.run("doctor", env=deaf(tmp_path))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("✓ models: ")
    assert any(line.startswith("✓ permissions: ") for line in lines)
    faults = [line for line in lines if line.startswith("✗")]
    assert any("microphone" in line and "plug" in line for line in faults)
    assert any(line.startswith("✗ broker: 127.0.0.1:1: ") and "start it" in line for line in faults)


def test_a_doctor_without_portaudio_names_the_package(
    installed: Installation, tmp_path: Path
) -> None:
    """The library's absence is a finding, not a crash."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    done = installed.run("doctor", env={**os.environ, "PYTHONPATH": str(blocked)})
    assert done.returncode == 1
    said = "✗ sound: PortAudio library not found; apt-get install libportaudio2"
    assert said in done.stdout.splitlines()


def test_a_daemon_without_microphone_and_broker_goes_on(
    installed: Installation, tmp_path: Path
) -> None:
    """Both are waited for: it is degraded, says why once, and ends only when told."""
    lost = {"event=health state=degraded reasons='source: microphone", "event=broker_lost"}
    log = ""
    with subprocess.Popen(
        installed.command("run"), stderr=subprocess.PIPE, text=True, env=deaf(tmp_path)
    ) as daemon:
        assert daemon.stderr is not None
        while not all(said in log for said in lost):
            log += (line := daemon.stderr.readline())
            assert line, log
        assert daemon.poll() is None
        daemon.terminate()
        log += daemon.stderr.read()
    assert daemon.returncode == 0
    assert log.count("event=sound_lost") == log.count("event=broker_lost") == 1
    assert "event=stopping reason='SIGTERM'" in log
    assert "Traceback" not in log


def test_a_doctor_has_nothing_to_say_about_a_good_installation(
    installed: Installation, broker: Broker, car: Car, voices: Path
) -> None:
    """Exit code 0 when models, profiles, sound, broker and the car's reports are all there."""
    installed.configure(
        mqtt={"port": broker.port}, sound={"source": str(voices / "af_bella" / "1.opus")}
    )
    with car.reporting():
        done = installed.run("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("All is well.\n")
    assert "Bella" not in done.stdout
    assert load_calibration(MODELS).encoder[:12] in done.stdout


def test_a_terminal_is_no_pipe(installed: Installation) -> None:
    """What somebody types is no sound: the text says what to pipe in."""
    installed.configure(sound={"source": "-"})
    ours, theirs = pty.openpty()
    done = subprocess.run(
        installed.command("run"), check=False, stdin=theirs, capture_output=True, text=True
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1
    assert done.stderr.startswith("whodrives: the pipe: nothing is piped in; ")
