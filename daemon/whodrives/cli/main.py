"""The command line: run, enrol, drivers, replay, demo, doctor, config.

Owns the arguments, the exit codes, and the order in which the daemon's parts are loaded.
Exit codes: 0 done, 1 failed (the text says what to fix), 2 wrong usage, 78 invalid configuration or
model (sysexits.h's EX_CONFIG; systemd does not restart on it), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import logging
import os
import resource
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from whodrives import __version__
from whodrives.config.location import SYSTEM_CONFIG, load_config, spelled
from whodrives.enrolment.recording import ENOUGH_S, LEAST_S
from whodrives.errors import BusError, ConfigError, ModelError, WhodrivesError
from whodrives.models.encoder import load_encoder

EX_CONFIG = 78


_PR_SET_DUMPABLE = 4


INTERRUPTED = 130


_NOT_CURED_BY_RETRYING = (ConfigError, ModelError, BusError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Every error is printed as one line without a traceback; the daemon also logs the traceback.
    """
    _take_any_stream()
    options = argparse.Namespace(config=None, command=None)
    try:
        try:
            parse(arguments, options)
        except SystemExit:
            sys.stdout.flush()
            raise
        _leave_no_core()
        _log_to_stderr(options.config)
        code: int = options.command(options)
        sys.stdout.flush()
    except WhodrivesError as error:
        _tell(spelled(str(error), options.config))
        return EX_CONFIG if isinstance(error, _NOT_CURED_BY_RETRYING) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has closed it, as in `| head`.
        _drop_output()
        return 1
    except Exception as error:
        if options.command is _run:
            logging.getLogger(__name__).critical("event=died", exc_info=error)
        _tell(_unexpected(error))
        _drop_output()
        return 1
    return code


def _log_to_stderr(config: Path | None) -> None:
    """Log to standard error; commands in a line name the configuration in use."""

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return spelled(super().format(record), config)

    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("level=%(levelname)s from=%(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def parse(arguments: Sequence[str] | None, options: argparse.Namespace) -> None:
    """Parse into `options`; argparse alone accepts no recordings after an option."""
    parser = _parser()
    _, left = parser.parse_known_args(arguments, options)
    if left and (not hasattr(options, "files") or any(each.startswith("-") for each in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        options.files += map(Path, left)


def _take_any_stream() -> None:
    """Make the standard streams accept any text and any bytes.

    A stream that was closed at the start is replaced by /dev/null: otherwise the next opened file
    would get its descriptor, and the output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (for the life of the process)
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (for the life of the process)
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _tell(text: str) -> None:
    """Print an error; ignore a broken stderr."""
    with contextlib.suppress(OSError, ValueError):
        print(f"whodrives: {text}", file=sys.stderr, flush=True)


def _unexpected(error: Exception) -> str:
    """An unexpected error in one line."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else "reading or writing failed: "
        return f"{place}{error.strerror}"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return f"an internal error of whodrives ({said[:200]}{where}); please report it"


def _drop_output() -> None:
    """Discard further output: Python would try to flush it at exit, and fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave_no_core() -> None:
    """Disable core dumps, which would contain voices.

    A limit of 0 does not apply to a core_pattern that is a pipe (core(5)); a process that is not
    dumpable (prctl(2), PR_SET_DUMPABLE) is not dumped there either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whodrives",
        description="Recognises the driver by voice, and asks the car to move seat and mirrors.",
        epilog=_examples(
            "whodrives demo          a recorded drive on this terminal; no preparation",
            "whodrives doctor        check this installation",
            "whodrives enrol Anna    learn a voice from the microphone",
            "whodrives run           the daemon: listen and publish",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"whodrives {__version__}")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration (default: {SYSTEM_CONFIG}; without it, defaults for a laptop)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_enrol(commands)
    _add_drivers(commands)
    _add_replay(commands)
    _add_demo(commands)
    _add_doctor(commands)
    _add_config(commands)
    return parser


# argparse has no public name for what add_subparsers returns.
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def _add(
    commands: _Commands, name: str, what: str, description: str, *examples: str
) -> argparse.ArgumentParser:
    """A command whose --help ends with examples."""
    return commands.add_parser(
        name,
        help=what,
        description=textwrap.fill(description, 79),
        epilog=_examples(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _examples(*lines: str) -> str:
    return "\n  ".join(["examples:", *lines])


def _add_run(commands: _Commands) -> None:
    parser = _add(
        commands,
        "run",
        "the daemon: listen and publish",
        "Listen to the configured source and publish who speaks. SIGHUP reloads settings and "
        "profiles, SIGTERM ends it. A missing microphone or broker is retried.",
        "whodrives run",
        "arecord -t raw -f S16_LE -r 16000 -c 1 | whodrives --config pipe.yaml run",
        '    where pipe.yaml says: sound: {source: "-"}',
    )
    parser.set_defaults(command=_run)


def _add_enrol(commands: _Commands) -> None:
    parser = _add(
        commands,
        "enrol",
        "learn a driver's voice",
        f"Learn a voice from {ENOUGH_S:.0f} s of speech (at least {LEAST_S:.0f} s), in any words "
        "and language: from the microphone, or from recordings of this one person.",
        "whodrives enrol Anna",
        "whodrives enrol Anna monday.wav tuesday.flac",
        "whodrives enrol                      the name is asked for, not in the process list",
        "whodrives enrol --road               in the parked car, and again while driving",
        "whodrives enrol Anna --again         on another day, in addition",
        "whodrives enrol Anna --replace       with a new microphone, or after years",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default="-",
        help="the driver's name, stored sealed (without, or -: asked for on the terminal, or read "
        "from standard input; every user of this machine can read arguments in the process list)",
    )
    parser.add_argument("files", nargs="*", type=Path, help="recordings (without: the microphone)")
    former = parser.add_mutually_exclusive_group()
    former.add_argument(
        "--again",
        action="store_true",
        help="add to this driver's voice: another day, microphone or way of speaking",
    )
    former.add_argument("--replace", action="store_true", help="replace this driver's voice")
    parser.add_argument(
        "--road", action="store_true", help="record again on the road, with its noise"
    )
    parser.add_argument(
        "--consent",
        metavar="NAME",
        help="the person who has consented (without: asked for, with the text, or read from "
        "standard input)",
    )
    parser.add_argument(
        "--accept-alike",
        action="store_true",
        help="keep a voice that is too similar to another driver's, at the cost that was printed",
    )
    parser.set_defaults(command=_command("enrol"))


def _add_drivers(commands: _Commands) -> None:
    parser = _add(
        commands,
        "drivers",
        "list, show, rename, forget; preferences, key; history, undo",
        "Manage the enrolled drivers; without an action, list them. WHO is a name or an id; - asks "
        "for it, or reads a line of standard input, so that no name is in the process list.",
        "whodrives drivers",
        "whodrives drivers show Anna",
        "whodrives drivers forget d-0123abcd",
    )
    parser.set_defaults(command=_command("list"))
    actions = parser.add_subparsers(metavar="ACTION")
    _add_list(actions)
    _add_show(actions)
    _add_rename(actions)
    _add_restore(actions)
    _add_forget(actions)
    _add_alike(actions)
    _add_export(actions)
    _add_import(actions)
    _add_accept(actions)
    _add_preferences(actions)
    _add_history(actions)
    _add_undo(actions)
    _add_key(actions)


def _add_list(actions: _Commands) -> None:
    listing = _add(
        actions,
        "list",
        "all enrolled drivers",
        "List all enrolled drivers, and the profiles that cannot be used.",
        "whodrives drivers list",
    )
    listing.set_defaults(command=_command("list"))


def _add_show(actions: _Commands) -> None:
    show = _add(
        actions,
        "show",
        "one driver with the preferences",
        "Show one driver's id, enrolment and preferences.",
        "whodrives drivers show Anna",
    )
    show.add_argument("who", metavar="WHO")
    show.set_defaults(command=_command("show"))


def _add_rename(actions: _Commands) -> None:
    rename = _add(
        actions,
        "rename",
        "change a driver's name",
        "Give a driver another name; id, voice and preferences stay.",
        'whodrives drivers rename Anna "Anna B."',
    )
    rename.add_argument("who", metavar="WHO")
    rename.add_argument("name", metavar="NAME")
    rename.set_defaults(command=_command("rename"))


def _add_restore(actions: _Commands) -> None:
    restore = _add(
        actions,
        "restore",
        "restore the voice before the last enrolment",
        "Restore the voice that --replace replaced, and erase the new one. This is possible until "
        "the new voice has assigned the driver of a trip.",
        "whodrives drivers restore Anna",
    )
    restore.add_argument("who", metavar="WHO")
    restore.set_defaults(command=_command("restore"))


def _add_alike(actions: _Commands) -> None:
    alike = _add(
        actions,
        "alike",
        "the similarity of the household's voices",
        "Print the similarity of each pair of voices (mean-subtracted cosine; 1: the same), and "
        "which pairs are too similar.",
        "whodrives drivers alike",
        "whodrives drivers alike --picture household.png",
    )
    alike.add_argument("--picture", type=Path, metavar="FILE.png", help="draw it, with matplotlib")
    alike.set_defaults(command=_command("alike"))


def _add_export(actions: _Commands) -> None:
    export = _add(
        actions,
        "export",
        "the whole household into one file, under a passphrase",
        "Write all enrolled drivers into a new file, sealed with a passphrase, to move them to "
        "another car.",
        "whodrives drivers export household.whodrives",
    )
    export.add_argument("file", type=Path, metavar="FILE")
    _add_passphrase(export)
    export.set_defaults(command=_command("export"))


def _add_import(actions: _Commands) -> None:
    arrive = _add(
        actions,
        "import",
        "import an exported household",
        "Import the drivers of an exported file: all, or none if one is already enrolled.",
        "whodrives drivers import household.whodrives",
    )
    arrive.add_argument("file", type=Path, metavar="FILE")
    _add_passphrase(arrive)
    arrive.set_defaults(command=_command("import"))


def _add_accept(actions: _Commands) -> None:
    accept = _add(
        actions,
        "accept",
        "accept files that were restored, or that belong to another vehicle.id",
        "Accept profiles that are refused: after vehicle.id was changed, after a file was restored "
        "from a backup, or when the index is missing. All or none; nothing is erased. Erased "
        "drivers are accepted only if named.",
        "whodrives drivers accept",
        "whodrives drivers accept d-0123abcd",
    )
    accept.add_argument("whom", metavar="WHO", nargs="*")
    accept.set_defaults(command=_command("accept"))


def _add_passphrase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="a file whose first line is the passphrase (without: asked for)",
    )


def _add_forget(actions: _Commands) -> None:
    forget = _add(
        actions,
        "forget",
        "erase voice and preferences permanently",
        "Erase a driver's voice and preferences. This cannot be undone.",
        "whodrives drivers forget Anna",
    )
    forget.add_argument("who", metavar="WHO")
    forget.set_defaults(command=_command("forget"))


def _add_preferences(actions: _Commands) -> None:
    preferences = _add(
        actions,
        "preferences",
        "print or change the positions of seat and mirrors",
        "Without options, print them as YAML. --file replaces all of them, --set changes some. "
        "Paths and units are those of the COVESA Vehicle Signal Specification (VSS) 6.0.",
        "whodrives drivers preferences Anna > anna.yaml",
        "whodrives drivers preferences Anna --file anna.yaml",
        "whodrives drivers preferences Anna --set \\",
        "    Vehicle.Cabin.Seat.Row1.DriverSide.Position=120 \\",
        "    Vehicle.Body.Mirrors.DriverSide.Tilt=-5",
    )
    preferences.add_argument("who", metavar="WHO")
    preferences.add_argument("--set", nargs="+", metavar="PATH=VALUE", default=[], dest="changes")
    preferences.add_argument("--file", type=Path, help="YAML with all of them, 'path: value'")
    preferences.add_argument(
        "--previous", action="store_true", help="restore those before the last change"
    )
    preferences.set_defaults(command=_command("preferences"))


def _add_history(actions: _Commands) -> None:
    history = _add(
        actions,
        "history",
        "what a profile has learned since it was enrolled",
        "Show the revisions by which a profile followed its driver's voice, and the quarantine. A "
        "cosine of 1 is the enrolled voice itself.",
        "whodrives drivers history Anna",
    )
    history.add_argument("who", metavar="WHO")
    history.set_defaults(command=_command("history"))


def _add_undo(actions: _Commands) -> None:
    undo = _add(
        actions,
        "undo",
        "roll back a profile's latest revision",
        "Roll back the latest revision of a profile, and empty its quarantine.",
        "whodrives drivers undo Anna",
        "whodrives drivers undo Anna --all     back to the voice as it was enrolled",
    )
    undo.add_argument("who", metavar="WHO")
    undo.add_argument("--all", action="store_true", help="all revisions, and the quarantine")
    undo.set_defaults(command=_command("undo"))


def _add_key(actions: _Commands) -> None:
    key = _add(
        actions,
        "key",
        "a driver's key fob",
        "Print, set or clear the key fob that assigns this driver without a voice. ID is what the "
        "car reports in Vehicle.Occupant.Row1.DriverSide.Identifier.Subject.",
        "whodrives drivers key Anna --set 4f1a9c",
        "whodrives drivers key Anna --clear",
    )
    key.add_argument("who", metavar="WHO")
    change = key.add_mutually_exclusive_group()
    change.add_argument("--set", metavar="ID", dest="fob")
    change.add_argument("--clear", action="store_true")
    key.set_defaults(command=_command("key"))


def _add_replay(commands: _Commands) -> None:
    parser = _add(
        commands,
        "replay",
        "a recording to events, as JSON lines",
        "Print the daemon's messages for a recording, as fast as it can be read; the output is "
        "byte-identical every time. Times count from the start of the recording, as if it had "
        "started at 1970-01-01T00:00:00Z.",
        "whodrives replay drive.wav",
        "whodrives replay drive.wav --vehicle car.jsonl",
        '    where car.jsonl has: {"at_s": 0, "signals": {"Vehicle.Speed": 0}}',
    )
    parser.add_argument(
        "file", type=Path, help="WAV, FLAC, Ogg Opus, ... of 16 kHz or more; - for raw PCM"
    )
    parser.add_argument(
        "--vehicle",
        type=Path,
        metavar="FILE",
        help='the car as JSON lines {"at_s": 0.0, "signals": {PATH: VALUE}}; each is valid '
        "until the next (without: no car, so nothing is applied)",
    )
    parser.set_defaults(command=_command("replay"))


def _add_demo(commands: _Commands) -> None:
    parser = _add(
        commands,
        "demo",
        "a recorded drive, live on this terminal",
        "Play a recorded drive of about a minute to a real daemon, with a real broker and a "
        "simulated seat. Needs a checkout and mosquitto; no microphone.",
        "whodrives demo",
        "whodrives demo --picture drive.svg",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="save the last screen")
    parser.set_defaults(command=_command("demo"))


def _add_doctor(commands: _Commands) -> None:
    parser = _add(
        commands,
        "doctor",
        "what is wrong, and how to fix it",
        "Check models, profiles, microphone, level and broker; one line each. Exits 1 if something "
        "must be fixed. Speak while it listens.",
        "whodrives doctor",
        "sudo -u whodrives whodrives doctor     with the rights of the service",
    )
    parser.set_defaults(command=_command("doctor"))


def _add_config(commands: _Commands) -> None:
    parser = _add(
        commands,
        "config",
        "the effective configuration",
        "Print every setting with its meaning and effective value, defaults included, as a file "
        "for --config.",
        "whodrives config > whodrives.yaml",
        "whodrives --config whodrives.yaml config",
    )
    parser.set_defaults(command=_command("config"))


def _run(options: argparse.Namespace) -> int:
    # The encoder first: the other modules then reuse the memory that loading it freed.
    load_encoder(Path(load_config(options.config).models.directory))
    from whodrives.service.daemon import serve  # noqa: PLC0415

    serve(lambda: load_config(options.config), lambda text: spelled(text, options.config))
    return 0


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    def perform(options: argparse.Namespace) -> int:
        from whodrives.cli import commands  # noqa: PLC0415 (the daemon has no use for it)

        return commands.perform(name, options)

    return perform
