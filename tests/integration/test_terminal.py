"""What people meet at the terminal: any locale, stream, home and file, and no traceback."""

import os
import pty
import pwd
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.installation import POSITION, Installation
from whodrives.config.location import load_config
from whodrives.errors import ConfigError

PROGRAM = str(Path(sys.executable).parent / "whodrives")
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
ORDINARY: Sequence[str] = UNPRIVILEGED if os.getuid() == 0 else ()
"""What a program is started by so that permissions hold for it: for root they do not."""


def whodrives(
    *arguments: str | bytes | Path, by: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run the program; whatever happens, nobody reads a traceback."""
    given: dict[str, Any] = {"capture_output": True, "input": b""} | options
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        [*by, PROGRAM, *arguments], check=False, timeout=60, **given
    )
    assert b"Traceback" not in (done.stderr or b"") + (done.stdout or b""), done.stderr.decode()
    assert b"Exception ignored" not in (done.stderr or b"")
    assert done.returncode in {0, 1, 2, 78}
    return done


def home_env(home: str | Path | None, **more: str) -> dict[str, str]:
    """A new user's environment."""
    env = {"PATH": os.environ["PATH"], **more}
    return env if home is None else env | {"HOME": str(home)}


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    """A fresh installation."""
    return Installation(tmp_path)


# --- before anybody speaks ------------------------------------------------------------------------


def _no_model(installation: Installation) -> None:
    installation.configure(models={"directory": str(installation.folder)})


def _file_for_folder(installation: Installation) -> None:
    (installation.folder / "profiles").write_text("a file")


def _file_for_key_folder(installation: Installation) -> None:
    (installation.folder / "keys").write_text("a file")
    files = {"directory": "profiles", "key_file": "keys/profile-key"}
    installation.configure(profiles=files)


def _shared_key(installation: Installation) -> None:
    (installation.folder / "profile-key").write_bytes(bytes(32))
    (installation.folder / "profile-key").chmod(0o644)


def _short_key(installation: Installation) -> None:
    (installation.folder / "profile-key").write_bytes(b"short")
    (installation.folder / "profile-key").chmod(0o600)


def _key_among_profiles(installation: Installation) -> None:
    installation.configure(profiles={"directory": "p", "key_file": "p/profile-key"})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_no_model, "encoder.json is missing"),
        (_file_for_folder, "profiles: "),
        (_file_for_key_folder, "keys"),
        (_shared_key, "chmod 600"),
        (_short_key, "not 32 bytes"),
        (_key_among_profiles, "lies among the profiles"),
        (lambda _: None, "microphone"),
    ],
    ids=["model", "folder", "key folder", "shared key", "short key", "key's place", "microphone"],
)
def test_what_can_be_known_is_known_before_anybody_is_asked(
    installed: Installation, spoil: Callable[[Installation], None], reason: str
) -> None:
    """Nobody agrees and speaks for a voice that cannot be heard or kept."""
    spoil(installed)
    done = installed.run("enrol", "Anna", env=home_env(installed.folder), given=b"Anna\n")
    assert done.returncode in {1, 78}
    assert reason in done.stderr
    assert "biometric" not in done.stderr
    assert "Speak freely" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_found_before_anybody_is_asked(
    installed: Installation, voices: Path
) -> None:
    """No room for a profile is told first, and nothing is left in the folders."""
    done = subprocess.run(
        installed.command("enrol", "Anna", str(voices / "af_bella" / "1.opus")),
        check=False,
        capture_output=True,
        text=True,
        input="Anna\n",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "biometric" not in done.stderr
    assert not installed.stored()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-"], b"needs letters"),
        (["\u202eannA"], b"U+202E"),
        (["d-0123abcd"], b"looks like an id"),
        (["x" * 65], b"at most 64"),
        ([b"J\xfcrgen"], b"UTF-8"),
        (["Anna", "--consent", b"J\xfcrgen"], b"who agreed is text in UTF-8"),
        (["Anna", "--consent", "\u3164"], b"U+3164"),
        (["Anna", "--consent", " "], b"nobody agreed"),
        (["Anna", "no-such.wav"], b"no-such.wav"),
        (["Anna", b"no-such-\xff.wav"], b"no-such-"),
    ],
)
def test_names_consent_and_recordings_are_checked_first(
    tmp_path: Path, arguments: list[str | bytes], reason: bytes
) -> None:
    """One line says what is wrong; nobody is asked for anything."""
    done = whodrives("enrol", *arguments, env=home_env(tmp_path), input=b"\n")
    assert done.returncode == 1
    assert reason in done.stderr
    assert b"biometric" not in done.stderr


def test_a_new_user_is_enrolled_in_an_empty_home(tmp_path: Path, voices: Path) -> None:
    """No folder is there yet; all are made, for this user only."""
    files = [str(voices / "af_bella" / f"{n}.opus") for n in (1, 2, 3, 4)]
    done = whodrives("enrol", "山田　太郎", *files, "--consent", "太郎", env=home_env(tmp_path))
    assert done.returncode == 0, done.stderr
    shown = whodrives("drivers", "show", "山田 太郎", env=home_env(tmp_path, LC_ALL="C")).stdout
    assert "consent: 太郎" in shown.decode()
    folders = [tmp_path / ".config" / "whodrives", tmp_path / ".local" / "share" / "whodrives"]
    assert all(folder.is_dir() for folder in folders)


# --- names that are in no process list ------------------------------------------------------------


def test_names_and_consent_can_be_read_from_standard_input(tmp_path: Path, voices: Path) -> None:
    """One line for each, so that nobody else on the machine reads them."""
    files = [str(voices / "af_bella" / f"{n}.opus") for n in (1, 2, 3, 4)]
    env = home_env(tmp_path)
    done = whodrives("enrol", "-", *files, env=env, input="Ana Ñ\nEva\n".encode())
    assert done.returncode == 0, done.stderr
    for arguments, given in (
        (("show", "-"), "ana ñ\n"),
        (("rename", "-", "-"), "Ana Ñ\nBo\n"),
        (("key", "-", "--set", "-"), "Bo\n4f1a\n"),
        (("preferences", "-", "--set", f"{POSITION}=120"), "Bo\n"),
        (("forget", "-"), "Bo\n"),
    ):
        done = whodrives("drivers", *arguments, env=env, input=given.encode())
        assert done.returncode == 0, done.stderr
    unanswered = whodrives("drivers", "show", "-", env=env, input=b"")
    assert (unanswered.returncode, b"nobody said" in unanswered.stderr) == (1, True)


def at_a_terminal(command: list[str], typed: list[bytes], env: Mapping[str, str]) -> str:
    """Run a command on a terminal; each line is typed once the one before was answered."""
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        command, stdin=secondary, stdout=secondary, stderr=secondary, env=env, close_fds=True
    ):
        os.close(secondary)
        shown, lines, deadline = b"", list(typed), time.monotonic() + 60
        while time.monotonic() < deadline:
            quiet = not select.select([primary], [], [], 1.0 if lines else 5.0)[0]
            if quiet and lines and shown.rstrip(b" ").endswith(b":"):
                os.write(primary, lines.pop(0))
                shown += b"|"
            elif not quiet:
                try:
                    shown += os.read(primary, 4096)
                except OSError:
                    break
        os.close(primary)
    return shown.decode(errors="replace")


def test_a_mistyped_name_is_asked_for_again(tmp_path: Path, voices: Path) -> None:
    """At a terminal nobody begins anew for a mistake; the command line shows no name."""
    path = str(voices / "af_bella" / "1.opus")
    typed = [b"d-0123abcd\n", b"J\xc3rgen\n", b"Anna\n", b"\n"]
    shown = at_a_terminal([PROGRAM, "enrol", "-", path], typed, home_env(tmp_path, TERM="dumb"))
    assert "looks like an id" in shown
    assert "UTF-8" in shown
    assert "biometric" in shown
    assert "nobody agreed" in shown
    assert "Traceback" not in shown


# --- no traceback reaches a person ----------------------------------------------------------------

LOCALES: list[dict[str, str]] = [
    {},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX"},
    {"LC_ALL": "xx_YY.UTF-8"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "utf-8:strict"},
    {"TERM": "dumb", "COLUMNS": "1"},
    {"TERM": "", "COLUMNS": "0", "LINES": "0"},
    {"COLUMNS": "many"},
    {"TERM": "no-such-terminal", "NO_COLOR": "1"},
]


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory, voices: Path) -> Installation:
    """A household of one whose name is in no small character set."""
    installation = Installation(tmp_path_factory.mktemp("strange"))
    installation.enrol("नेहा 山田", voices / "af_bella", **{POSITION: 120})
    return installation


@pytest.mark.parametrize("env", LOCALES, ids=lambda env: ",".join(map("=".join, env.items())))
def test_any_locale_and_terminal_is_served(strange: Installation, env: dict[str, str]) -> None:
    """What cannot be shown is written as an escape; nothing fails because of it."""
    environment = home_env(strange.folder, **env)
    for arguments, code in (
        (["--help"], 0),
        (["drivers"], 0),
        (["drivers", "alike"], 0),
        (["drivers", "show", "नेहा 山田"], 0),
        (["drivers", "show", b"\xff\xfe"], 1),
        (["enrol", "नेहा 山田", "--replace", "x\udcff.wav"], 1),
        (["doctor"], 1),
        (["replay", b"\xff.wav"], 1),
        (["strange"], 2),
    ):
        done = whodrives("--config", str(strange.config), *arguments, env=environment)
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize("command", ["config", "drivers", "--help", "doctor", "--version"])
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed_stop_nothing(
    strange: Installation, command: str, closed: tuple[int, ...]
) -> None:
    """As cron and some launchers start programs; no file is opened in their place."""
    shut = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["/bin/bash", "-c", f'exec "$@" {shut}', "-", PROGRAM, "--config", strange.config, command],
        check=False,
        capture_output=True,
    )
    assert done.returncode == (1 if command == "doctor" else 0), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", ["config", "drivers", "--help", "--version"])
def test_output_that_nobody_can_take_is_told_in_a_line(strange: Installation, command: str) -> None:
    """A full disk behind `>` is an error with a reason."""
    with Path("/dev/full").open("wb") as full:
        done = whodrives(
            "--config",
            str(strange.config),
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            capture_output=False,
            env=home_env(strange.folder),
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert done.stderr.count(b"\n") == 1


def _is_a_file(folder: Path) -> str:
    (folder / "file").write_text("")
    return str(folder / "file")


def _unreadable(folder: Path) -> str:
    (folder / "locked").mkdir(mode=0o000)
    return str(folder / "locked")


def _read_only(folder: Path) -> str:
    (folder / "read-only").mkdir(mode=0o555)
    return str(folder / "read-only")


@pytest.mark.parametrize(
    ("home", "code"),
    [(_is_a_file, 1), (_unreadable, 1), (_read_only, 0), (lambda _: "/dev/null", 1)],
    ids=["file", "unreadable", "read-only", "device"],
)
def test_any_home_is_survived(
    tmp_path: Path, voices: Path, home: Callable[[Path], str], code: int
) -> None:
    """Listing says nobody or why not; enrolling says what cannot be written, before all else."""
    env = home_env(home(tmp_path))
    listed = whodrives("drivers", env=env, by=ORDINARY)
    assert listed.returncode in {0, code}
    path = str(voices / "af_bella" / "1.opus")
    refused = whodrives("enrol", "Anna", path, env=env, input=b"Anna\n", by=ORDINARY)
    assert refused.returncode == 1
    assert b"biometric" not in refused.stderr
    assert env["HOME"].encode() in refused.stderr
    assert whodrives("doctor", env=env, by=ORDINARY).returncode == 1


@pytest.mark.parametrize("home", ["", "relative/home", "~"])
def test_a_home_that_is_no_folder_is_an_error(home: str, tmp_path: Path) -> None:
    """Nothing is put where nobody looks for it; the text says what to set."""
    done = whodrives("drivers", env=home_env(home), cwd="/")
    assert done.returncode == 78
    assert b"the home directory cannot be determined" in done.stderr
    assert b"set HOME to one, or give --config FILE" in done.stderr
    xdg = home_env(home, XDG_DATA_HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
    assert whodrives("drivers", env=xdg, cwd="/").returncode == 0
    relative = home_env(tmp_path, XDG_DATA_HOME="here", XDG_CONFIG_HOME="there")
    assert str(tmp_path) in whodrives("config", env=relative).stdout.decode()


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and no entry in the password database, as some containers and units have it."""

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ConfigError, match="HOME is not set, and this user has no entry"):
        load_config(None)


def test_a_folder_that_was_deleted_is_no_traceback(strange: Installation, tmp_path: Path) -> None:
    """A terminal may stand in a folder that is not there any more."""
    for arguments in (["--config", "x.yaml", "drivers"], ["drivers"], ["--help"], ["doctor"]):
        folder = tmp_path / "deleted"
        folder.mkdir()
        command = ["/bin/bash", "-c", 'rmdir "$PWD"; exec "$@"', "-", PROGRAM, *arguments]
        done = subprocess.run(
            command, cwd=folder, check=False, capture_output=True, env=home_env(strange.folder)
        )
        assert done.returncode in {0, 1, 78}
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("/", b"Is a directory"),
        ("/no/such/file", b"No such file"),
        ("/dev/zero", b"larger than"),
        (b"/tmp/\xff\xfe", b"No such file"),
        ("x" * 5000, b"File name too long"),
        ("/dev/null/x", b"Not a directory"),
    ],
)
def test_a_strange_configuration_is_refused_in_a_line(config: str, reason: bytes) -> None:
    """The file is named, with the reason."""
    done = whodrives("--config", config, "drivers")
    assert done.returncode == 78
    assert reason in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_pipe_is_a_configuration_if_somebody_writes_into_it(
    installed: Installation, tmp_path: Path
) -> None:
    """As the shell's `<(...)` is one; a named pipe without a writer does not hang the command."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = whodrives("--config", str(pipe), "drivers")
    assert done.returncode == 78
    assert b"nothing came through the pipe in 5 s" in done.stderr
    typed = f"{PROGRAM} --config <(sleep 0.3; cat {installed.config}) config"
    shown = subprocess.run(["/bin/bash", "-c", typed], check=True, capture_output=True)
    assert b"port: 1" in shown.stdout


def test_a_configuration_that_only_the_service_may_read_says_how(tmp_path: Path) -> None:
    """Permission denied is told with whom to be."""
    path = tmp_path / "c.yaml"
    path.write_text("vehicle: {id: car}\n")
    path.chmod(0o000)
    done = whodrives("--config", str(path), "drivers", by=ORDINARY)
    assert done.returncode == 78
    assert b"sudo -u whodrives whodrives" in done.stderr


@pytest.mark.parametrize("command", [["drivers"], ["run"]])
def test_what_nobody_foresaw_is_one_line_and_in_the_log_of_the_daemon(
    command: list[str], tmp_path: Path
) -> None:
    """A person is asked to report it; the daemon's log has the traceback."""
    script = (
        "import sys\n"
        "from whodrives.cli import main\n"
        "def fails(_): raise KeyError('unforeseen')\n"
        "main.load_config = fails\n"
        "from whodrives.cli import commands; commands.load_config = fails\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        check=False,
        capture_output=True,
        text=True,
        env=home_env(tmp_path),
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("whodrives: an internal error of whodrives (KeyError: 'unforeseen' at ")
    assert ("Traceback" in done.stderr) == (command == ["run"])


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("key", 0o666, "others may use the key"),
        ("key", 0o640, "others may use the key"),
        ("key", 0o604, "others may use the key"),
        ("certificate", 0o646, "others may replace the certificate"),
        ("ca", 0o666, "others may replace the authority's certificate"),
    ],
)
@pytest.mark.parametrize("command", ["run", "doctor", "drivers", "config"])
def test_a_tls_key_that_others_may_use_is_refused_by_every_command(
    installed: Installation, name: str, mode: int, reason: str, command: str
) -> None:
    """As the profiles' key is; and the command that the text names is all that is needed."""
    tls = {each: f"my {each}.pem" for each in ("ca", "certificate", "key")}
    for path in tls.values():
        (installed.folder / path).write_text("")
        (installed.folder / path).chmod(0o600)
    installed.configure(mqtt={"host": "broker.car", "tls": tls})
    (installed.folder / tls[name]).chmod(mode)
    done = installed.run(command)
    assert done.returncode == 78
    assert f"mqtt.tls.{name}: {reason}" in done.stderr
    subprocess.run(done.stderr.split("`")[1], shell=True, check=True)  # noqa: S602 (as a person types it)
    assert "mqtt.tls" not in installed.run("config").stderr


def test_a_broker_without_a_certificate_of_ours_is_no_mistake(installed: Installation) -> None:
    """A user and a password need no certificate; there is nothing of ours to refuse."""
    ca, password = installed.folder / "ca.pem", installed.folder / "password"
    for path in (ca, password):
        path.write_text("")
        path.chmod(0o600)
    mqtt = {"host": "broker.car", "tls": {"ca": str(ca)}}
    installed.configure(mqtt=mqtt | {"username": "car", "password_file": str(password)})
    done = installed.run("drivers")
    assert (done.returncode, done.stderr) == (0, "")


# --- what a message names can be typed ------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o666])
def test_the_chmod_that_is_named_helps(tmp_path: Path, mode: int) -> None:
    """Of the profiles' key and of the folder, whatever blanks and quotes are in the path."""
    folder = tmp_path / "Anna's car $HOME"
    folder.mkdir()
    installation = Installation(folder)
    (folder / "profiles").mkdir(mode=0o700)
    (folder / "profiles" / "d-00000000.profile").write_bytes(b"")
    (folder / "profile-key").write_bytes(bytes(32))
    (folder / "profile-key").chmod(mode)
    told = installation.run("doctor").stdout
    (line,) = (each for each in told.splitlines() if each.startswith("✗ permissions"))
    typed = line.partition("run: ")[2]
    refused = installation.run("drivers").stderr
    assert "chmod 600" in refused
    for command in (refused.split("`")[1], typed):
        subprocess.run(command, shell=True, check=True)  # noqa: S602 (as a person types it)
    assert "run `chmod" not in installation.run("drivers").stderr
    assert "✗ permissions" not in installation.run("doctor").stdout


def test_commands_that_are_named_are_for_the_configuration_in_force(
    installed: Installation, voices: Path
) -> None:
    """Typed as they stand, they work: another configuration is another household."""
    empty = installed.run("drivers").stdout
    assert f"whodrives --config {installed.config} enrol" in empty
    files = [voices / "bm_george" / f"{n}.opus" for n in (1, 2, 3, 4)]
    done = installed.run("enrol", "George", *files, "--consent", "George")
    line = next(each for each in done.stdout.splitlines() if "drivers preferences" in each)
    typed = line.split()
    assert typed[0] == "whodrives"
    assert whodrives(*typed[1:]).returncode == 0
    assert f"{POSITION}: 120" in installed.run("drivers", "show", "George").stdout
