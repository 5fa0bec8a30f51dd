"""The command line as people use it: a program of its own, with a real store and real voices."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import yaml

from tests.conftest import VirtualMicrophone
from tests.integration.installation import COMMAND, POSITION, Installation
from tests.integration.running import STANDING
from whodrives import __version__
from whodrives.config.location import load_config
from whodrives.service.wiring import open_store
from whodrives.store import calendar

TILT = "Vehicle.Body.Mirrors.DriverSide.Tilt"


def whodrives(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program without a configuration."""
    return subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True)


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    """A fresh installation."""
    return Installation(tmp_path)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, voices: Path) -> Installation:
    """An installation with two drivers, not to be changed."""
    installation = Installation(tmp_path_factory.mktemp("enrolled"))
    installation.enrol("Bella", voices / "af_bella", **{POSITION: 120})
    installation.enrol("George", voices / "bm_george")
    return installation


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "",
        "run",
        "enrol",
        "drivers",
        "drivers list",
        "drivers show",
        "drivers rename",
        "drivers forget",
        "drivers restore",
        "drivers alike",
        "drivers accept",
        "drivers export",
        "drivers import",
        "drivers preferences",
        "drivers history",
        "drivers undo",
        "drivers key",
        "replay",
        "demo",
        "doctor",
        "config",
    ],
)
def test_help_teaches_by_example(command: str) -> None:
    """Every --help ends in a line that can be typed."""
    done = whodrives(*command.split(), "--help")
    assert done.returncode == 0
    assert f"whodrives {command}" in done.stdout.partition("examples:\n")[2]


def test_the_encoder_comes_into_memory_before_the_daemon() -> None:
    """Loading it leaves memory free, which what is imported after it takes."""
    later = [
        "whodrives.service",
        "whodrives.cli.commands",
        "paho",
        "cryptography",
        "soundfile",
        "rich",
    ]
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, whodrives.cli; print({{*sys.modules}} & {{*{later}}})",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout == "set()\n"


def test_version_is_told() -> None:
    """--version is what a report of a fault begins with."""
    assert whodrives("--version").stdout == f"whodrives {__version__}\n"


@pytest.mark.parametrize("arguments", ["", "drive", "drivers show", "drivers fire Anna"])
def test_wrong_usage_exits_with_2(arguments: str) -> None:
    """What was not understood does nothing, and usage is shown."""
    done = whodrives(*arguments.split())
    assert done.returncode == 2
    assert done.stderr.startswith("usage: whodrives")


def test_the_configuration_in_force_can_be_printed_and_used(installed: Installation) -> None:
    """`config` shows given values and defaults, as a file that means the same."""
    printed = installed.run("config").stdout
    values = yaml.safe_load(printed)
    assert values["mqtt"]["port"] == 1
    assert values["recognition"] == {"strangers": "1/100"}
    installed.config.write_text(printed, encoding="utf-8")
    assert installed.run("config").stdout == printed


# --- drivers --------------------------------------------------------------------------------------


@pytest.mark.much_speech
def test_a_driver_is_enrolled_looked_after_and_forgotten(
    installed: Installation, voices: Path
) -> None:
    """From the first sentence to the erased file, by the commands alone."""
    begin = f"whodrives --config {installed.config} enrol\n"
    assert installed.run("drivers").stdout.endswith(begin)
    driver = installed.enrol("Anna Müller", voices / "af_bella")
    listed = installed.run("drivers", "list").stdout
    assert "Anna Müller" in listed
    assert driver in listed
    assert installed.run("drivers").stdout == listed
    assert installed.run("drivers", "rename", "anna müller", "Bo").returncode == 0
    assert installed.run("drivers", "show", driver).stdout.startswith(f"Bo: {driver}, enrolled")
    assert installed.run("drivers", "forget", "BO").returncode == 0
    assert sorted(installed.stored()) == ["index.sealed", "profile-key"]


@pytest.mark.much_speech
def test_preferences_are_set_printed_and_read_back(installed: Installation, voices: Path) -> None:
    """What `preferences` prints is a file that --file takes; --set changes one of them."""
    installed.enrol("Anna", voices / "af_bella", **{POSITION: 120, TILT: -5})
    printed = installed.run("drivers", "preferences", "Anna").stdout
    assert yaml.safe_load(printed) == {POSITION: 120, TILT: -5}
    changed = installed.run("drivers", "preferences", "Anna", "--set", f"{TILT}=7").stdout
    assert yaml.safe_load(changed) == {POSITION: 120, TILT: 7}
    (installed.folder / "anna.yaml").write_text(printed, encoding="utf-8")
    path = installed.folder / "anna.yaml"
    assert installed.run("drivers", "preferences", "Anna", "--file", path).stdout == printed


@pytest.mark.much_speech
def test_preferences_and_key_are_changed_and_taken_back(
    installed: Installation, voices: Path
) -> None:
    """`--previous` swaps with the ones before; a key is set, shown and cleared."""
    installed.enrol("Anna", voices / "af_bella", **{POSITION: 120})
    installed.run("drivers", "preferences", "Anna", "--set", f"{POSITION}=99")
    for position in (120, 99):
        back = installed.run("drivers", "preferences", "Anna", "--previous").stdout
        assert yaml.safe_load(back) == {POSITION: position}
    mixed = installed.run("drivers", "preferences", "Anna", "--previous", "--set", f"{POSITION}=1")
    assert (mixed.returncode, "give it alone" in mixed.stderr) == (1, True)
    assert "key: none" in installed.run("drivers", "key", "Anna").stdout
    assert "key: 4f1a" in installed.run("drivers", "key", "Anna", "--set", "4f1a").stdout
    assert "key: 4f1a" in installed.run("drivers", "show", "Anna").stdout
    assert "key: none" in installed.run("drivers", "key", "Anna", "--clear").stdout


@pytest.mark.much_speech
def test_enrolling_anew_keeps_id_and_preferences(installed: Installation, voices: Path) -> None:
    """--replace is another voice for the same driver."""
    driver = installed.enrol("Anna", voices / "af_bella", **{POSITION: 120})
    before = installed.stored()
    sentences = [voices / "af_sarah" / f"{n}.opus" for n in (1, 2, 3)]
    assert installed.run("enrol", "anna", *sentences, "--replace", "--consent", "A").returncode == 0
    shown = installed.run("drivers", "show", driver).stdout
    assert f"{POSITION}: 120" in shown
    assert installed.stored() != before


# --- replay ---------------------------------------------------------------------------------------


@pytest.mark.much_speech
def test_replay_tells_what_the_daemon_would_have_told(
    enrolled: Installation, voices: Path, tmp_path: Path
) -> None:
    """One JSON object a line, with the topic and payload of the message; no name in it."""
    car = tmp_path / "car.jsonl"
    car.write_text(json.dumps({"at_s": 0, "signals": STANDING}) + "\n", encoding="utf-8")
    done = enrolled.run("replay", voices / "af_bella" / "5.opus", "--vehicle", car)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    said = {line["topic"].removeprefix("whodrives/car/"): line["payload"] for line in lines}
    assert said["recognition"]["outcome"] == "known"
    assert said["preferences/apply"]["signals"] == {POSITION: 120}
    assert said["preferences/apply"]["driver"] == said["recognition"]["driver"]
    assert "Bella" not in done.stdout


@pytest.mark.much_speech
def test_replay_gives_the_same_bytes_every_time(enrolled: Installation, voices: Path) -> None:
    """A recorded drive is a test: two runs cannot be told apart."""
    recording = voices / "bm_george" / "6.opus"
    assert enrolled.run("replay", recording).stdout == enrolled.run("replay", recording).stdout


@pytest.mark.much_speech
def test_a_stranger_is_unknown(enrolled: Installation, voices: Path) -> None:
    """Somebody who is not enrolled is nobody, and without a car nothing is applied."""
    done = enrolled.run("replay", voices / "am_onyx" / "1.opus")
    recognised = [json.loads(line) for line in done.stdout.splitlines() if "recognition" in line]
    assert [line["payload"]["driver"] for line in recognised] == [None]
    assert "preferences/apply" not in done.stdout


@pytest.mark.much_speech
def test_a_reader_that_leaves_is_no_error_of_ours(enrolled: Installation, voices: Path) -> None:
    """`whodrives replay ... | head` ends without a traceback."""
    command = enrolled.command("replay", voices / "bm_george" / "6.opus")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""


# --- the microphone -------------------------------------------------------------------------------


def test_a_voice_is_learned_from_the_microphone(
    installed: Installation, virtual_microphone: VirtualMicrophone, voices: Path
) -> None:
    """Who speaks is enrolled; Ctrl-C ends it early, and then more is said to be better."""
    installed.configure(sound={"device": "pulse"})
    with subprocess.Popen(
        installed.command("enrol", "Anna", "--consent", "Anna"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=virtual_microphone.environment,
        text=True,
    ) as running:
        assert running.stderr is not None
        assert "Speak freely" in running.stderr.readline()
        for number in (1, 2, 3):
            virtual_microphone.play(voices / "af_bella" / f"{number}.opus")
        running.send_signal(signal.SIGINT)
        told, _ = running.communicate()
    assert running.returncode == 0, told
    assert told.startswith("Anna is enrolled as d-")
    assert re.search(r"^  whodrives --config \S+ enrol d-\w{8} --again$", told, re.MULTILINE)
    known = installed.run("replay", voices / "af_bella" / "5.opus").stdout
    assert '"outcome": "known"' in known


def test_a_doctor_hears_whether_the_microphone_is_muted(
    installed: Installation, virtual_microphone: VirtualMicrophone, voices: Path
) -> None:
    """Silence is a fault with a fix; speech has a level and a band; the devices are listed."""
    installed.configure(sound={"device": "pulse"})
    muted = installed.run("doctor", env=virtual_microphone.environment).stdout
    assert "pulse" in muted.partition("✓ microphones: ")[2]
    assert "nothing but silence comes in; unmute the microphone" in muted
    sentence, rate_hz = soundfile.read(voices / "af_bella" / "5.opus", dtype="float32")
    narrow = soxr.resample(soxr.resample(sentence, rate_hz, 8_000), 8_000, rate_hz)
    for said, band in (
        (sentence, "✓ band: wide band"),
        (narrow, "✗ band: your speech came in telephone band"),
    ):
        # Longer than the slowest machine takes to start the doctor.
        speaking = virtual_microphone.play(np.tile(said, 20), rate_hz, wait=False)
        heard = installed.run("doctor", env=virtual_microphone.environment).stdout
        speaking.terminate()
        speaking.wait()
        assert "✓ level: level -" in heard
        assert band in heard


# --- the household --------------------------------------------------------------------------------


@pytest.mark.much_speech
def test_nobody_is_enrolled_who_did_not_agree(installed: Installation, voices: Path) -> None:
    """The text is shown; no answer is a no, an answer is kept with its moment and version."""
    path = voices / "af_bella"
    files = [path / f"{number}.opus" for number in (1, 2, 3)]
    refused = installed.run("enrol", "Bella", *files)
    assert refused.returncode == 1
    assert "A voice is a biometric" in refused.stderr
    assert "nobody agreed" in refused.stderr
    assert not installed.stored()
    agreed = installed.run("enrol", "Bella", *files, given=b"Bella Swan\n")
    assert agreed.returncode == 0, agreed.stderr
    assert re.search(r"Known in \d+ of \d+ s of its own speech\.", agreed.stderr)
    shown = installed.run("drivers", "show", "Bella").stdout
    assert re.search(r"consent: Bella Swan, 20\d\d-.*, text 2026-11", shown)


@pytest.mark.much_speech
def test_one_person_under_two_names_is_refused_unless_accepted(
    installed: Installation, voices: Path
) -> None:
    """The other name is told; --accept-alike keeps it, and the matrix goes on saying so."""
    installed.enrol("George", voices / "bm_george")
    again = ("enrol", "Georgie", voices / "bm_george" / "5.opus", voices / "bm_george" / "4.opus")
    refused = installed.run(*again, "--consent", "G")
    assert refused.returncode == 1
    assert "same_person: this voice is that of George (d-" in refused.stderr
    assert "--accept-alike" in refused.stderr
    kept = installed.run(*again, "--consent", "G", "--accept-alike")
    assert kept.returncode == 0, kept.stderr
    assert "same_person" in kept.stderr
    picture = installed.folder / "alike.png"
    shown = installed.run("drivers", "alike", "--picture", picture)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"George +.*Georgie", shown.stdout)
    assert picture.read_bytes().startswith(b"\x89PNG")


def _george(installed: Installation, voices: Path) -> tuple[str, tuple[Path, Path]]:
    """Enrol George; what a replay of him gives, and recordings for another enrolment."""
    installed.configure(mqtt={"evidence": True})
    installed.enrol("George", voices / "bm_george")
    before = installed.run("replay", voices / "bm_george" / "5.opus").stdout
    return before, (voices / "bm_george" / "5.opus", voices / "bm_george" / "4.opus")


@pytest.mark.much_speech
def test_enrolling_anew_can_be_taken_back(installed: Installation, voices: Path) -> None:
    """A worse second recording is no loss until it has settled a trip."""
    before, new = _george(installed, voices)
    done = installed.run("enrol", "George", *new, "--replace", "--consent", "G")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^  whodrives --config \S+ drivers restore d-\w{8}$", done.stdout, re.MULTILINE
    )
    assert installed.run("replay", voices / "bm_george" / "5.opus").stdout != before
    assert installed.run("drivers", "restore", "George").returncode == 0
    assert installed.run("replay", voices / "bm_george" / "5.opus").stdout == before
    assert "no previous voice" in installed.run("drivers", "restore", "George").stderr


@pytest.mark.much_speech
def test_another_day_is_added_to_a_voice(installed: Installation, voices: Path) -> None:
    """By id or name; the first day stays, and the second can be taken back."""
    before, new = _george(installed, voices)
    other = [voices / "af_bella" / f"{n}.opus" for n in (1, 2, 3, 4)]
    refused = installed.run("enrol", "George", *other, "--again", "--consent", "G")
    assert (refused.returncode, "not_this_driver" in refused.stderr) == (1, True)
    done = installed.run("enrol", "george", *new, "--again", "--consent", "G")
    assert done.returncode == 0, done.stderr
    driver = re.search(r"is enrolled as (d-\w{8})", done.stdout)
    assert driver is not None
    shown = installed.run("drivers", "history", "George").stdout
    assert [line.split()[1] for line in shown.splitlines()[:2]] == ["enrolled", "again"]
    assert installed.run("replay", voices / "bm_george" / "5.opus").stdout != before
    assert installed.run("drivers", "restore", driver[1]).returncode == 0
    assert installed.run("replay", voices / "bm_george" / "5.opus").stdout == before
    nobody = installed.run("enrol", "Ann", *new, "--again", "--consent", "A")
    assert "no driver is called Ann" in nobody.stderr


@pytest.mark.much_speech
def test_a_household_is_carried_to_another_car(
    enrolled: Installation, tmp_path: Path, voices: Path
) -> None:
    """Exported, imported into a car with another id and key, and known there."""
    (tmp_path / "words").write_text("four words nobody guesses\n")
    (tmp_path / "words").chmod(0o644)
    file = tmp_path / "household"
    words = ("--passphrase-file", tmp_path / "words")
    refused = enrolled.run("drivers", "export", file, *words)
    assert f"chmod 600 {tmp_path / 'words'}" in refused.stderr
    (tmp_path / "words").chmod(0o600)
    assert "2 drivers" in enrolled.run("drivers", "export", file, *words).stdout
    (tmp_path / "other").mkdir()
    other = Installation(tmp_path / "other")
    other.configure(vehicle={"id": "second-car"})
    assert "Bella is here as d-" in other.run("drivers", "import", file, *words).stdout
    known = other.run("replay", voices / "af_bella" / "5.opus").stdout
    assert '"outcome": "known"' in known
    again = other.run("drivers", "import", file, *words)
    assert "already enrolled here" in again.stderr


@pytest.mark.much_speech
def test_forgetting_prints_a_receipt(installed: Installation, voices: Path) -> None:
    """What was erased, by kind, with the id and the moment."""
    driver = installed.enrol("George", voices / "bm_george")
    told = installed.run("drivers", "forget", "George").stdout
    assert re.search(rf"Receipt of 20\d\d-\S+ for {driver}; erased:", told)
    assert "embeddings" in told
    assert "the record of consent" in told
    assert [path.name for path in (installed.folder / "profiles").iterdir()] == ["index.sealed"]


def test_a_driver_who_is_long_gone_is_offered_to_be_forgotten(
    installed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the list and by the doctor; nobody is forgotten unasked."""
    monkeypatch.setattr(calendar, "today_iso", lambda: "2026-11-01")
    section = {"directory": "profiles", "key_file": "profile-key", "retention_days": 20}
    installed.configure(profiles=section)
    store = open_store(load_config(installed.config))
    rows = np.eye(448, dtype=np.float32)[:3]
    store.save("Oldie", rows, 20.0)
    listed = installed.run("drivers").stdout
    assert re.search(r"^  whodrives --config \S+ drivers forget d-\w{8}$", listed, re.MULTILINE)
    assert "was not recognised for" in installed.run("doctor").stdout
    installed.configure(profiles=section | {"retention_days": 0})
    assert "forget Oldie" not in installed.run("drivers").stdout
