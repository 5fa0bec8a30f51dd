"""The command line: run, enrol, drivers, replay, demo, doctor, config.

Owns words for people: arguments, tables, progress, exit codes. What the commands do is done
elsewhere. Exit codes: 0 done, 1 not done (the text says what to mend), 2 wrong usage, 78 wrong
configuration or model (sysexits.h's EX_CONFIG; systemd does not restart on it), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import getpass
import json
import logging
import math
import os
import resource
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from io import FileIO
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whodrives import __version__, adaptation, config, contract, service
from whodrives.capture import read_file, read_pipe
from whodrives.config import Config
from whodrives.domain import (
    AudioBlock,
    BusError,
    ConfigError,
    Event,
    Held,
    Input,
    ModelError,
    PayloadError,
    Profile,
    ProfileError,
    VehicleReport,
    WhodrivesError,
)
from whodrives.enrolment import ENOUGH_S, LEAST_S
from whodrives.inference import load_calibration
from whodrives.learning import forget
from whodrives.profiles import ProfileStore, StoredProfile, unused
from whodrives.service import household, load_recognizer, open_store, serve
from whodrives.tutor import Wish, enrol, likeness_picture, likeness_table

CHECKOUT = Path(__file__).parents[2]
SYSTEM_CONFIG = Path("/etc/whodrives/whodrives.yaml")
EX_CONFIG = 78
_PR_SET_DUMPABLE = 4
INTERRUPTED = 130
_NOT_CURED_BY_RETRYING = (ConfigError, ModelError, BusError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    _leave_no_core()
    logging.basicConfig(level=logging.INFO, format="level=%(levelname)s from=%(name)s %(message)s")
    try:
        code: int = options.command(options)
        sys.stdout.flush()
    except WhodrivesError as error:
        print(f"whodrives: {error}", file=sys.stderr)
        return EX_CONFIG if isinstance(error, _NOT_CURED_BY_RETRYING) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output has left, as in `| head`; Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _leave_no_core() -> None:
    """Let no crash write our memory, voices and all, to a disk.

    A limit of 0 alone does not keep it from a core_pattern that is a pipe (core(5)); a process that
    is not dumpable (prctl(2), PR_SET_DUMPABLE) is not given to one either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


# --- the arguments --------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whodrives",
        description="Hears which enrolled driver speaks, and tells the car how to fit itself.",
        epilog=_examples(
            "whodrives demo          a recorded drive on this terminal; nothing to prepare",
            "whodrives doctor        what this installation lacks",
            "whodrives enrol Anna    learn a voice from the microphone",
            "whodrives run           listen and tell the car",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"whodrives {__version__}")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration (default: {SYSTEM_CONFIG}, or if it is not there a laptop's defaults)",
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
    """A command whose --help ends in examples that can be typed."""
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
        "listen and tell the car",
        "Listen to the configured source and publish who speaks. SIGHUP reads settings and "
        "profiles again, SIGTERM ends it. A microphone or a broker that is away is waited for.",
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
        "whodrives enrol Anna --road          in the parked car, and once more while driving",
        "whodrives enrol Anna --replace       with a new microphone, or after years",
    )
    parser.add_argument("name", help="what the driver is called; stays in the sealed store")
    parser.add_argument("files", nargs="*", type=Path, help="recordings; none: the microphone")
    parser.add_argument("--replace", action="store_true", help="enrol this driver anew")
    parser.add_argument(
        "--road", action="store_true", help="record once more on the road, with its noise"
    )
    parser.add_argument(
        "--consent",
        metavar="NAME",
        help="who has agreed to be enrolled (without: it is asked, with the text)",
    )
    parser.add_argument(
        "--accept-alike",
        action="store_true",
        help="keep a voice that is too like another driver's, knowing what it costs",
    )
    parser.set_defaults(command=_enrol)


def _add_drivers(commands: _Commands) -> None:
    parser = _add(
        commands,
        "drivers",
        "list, show, rename, forget; preferences, key; history, undo",
        "Look after the enrolled drivers; without an action, list them. WHO is a name or an id.",
        "whodrives drivers",
        "whodrives drivers show Anna",
        "whodrives drivers forget d-0123abcd",
    )
    parser.set_defaults(command=_list)
    actions = parser.add_subparsers(metavar="ACTION")
    _add_list(actions)
    _add_show(actions)
    _add_rename(actions)
    _add_restore(actions)
    _add_forget(actions)
    _add_alike(actions)
    _add_export(actions)
    _add_import(actions)
    _add_preferences(actions)
    _add_history(actions)
    _add_undo(actions)
    _add_key(actions)


def _add_list(actions: _Commands) -> None:
    listing = _add(
        actions,
        "list",
        "everybody who is enrolled",
        "List everybody who is enrolled, and say which profiles cannot be used.",
        "whodrives drivers list",
    )
    listing.set_defaults(command=_list)


def _add_show(actions: _Commands) -> None:
    show = _add(
        actions,
        "show",
        "one driver and the preferences",
        "Show one driver's id, enrolment and preferences.",
        "whodrives drivers show Anna",
    )
    show.add_argument("who", metavar="WHO")
    show.set_defaults(command=_show)


def _add_rename(actions: _Commands) -> None:
    rename = _add(
        actions,
        "rename",
        "call a driver something else",
        "Give a driver another name; id, voice and preferences stay.",
        'whodrives drivers rename Anna "Anna B."',
    )
    rename.add_argument("who", metavar="WHO")
    rename.add_argument("name", metavar="NAME")
    rename.set_defaults(command=_rename)


def _add_restore(actions: _Commands) -> None:
    restore = _add(
        actions,
        "restore",
        "go back to the voice before the last enrolment",
        "Go back to the voice that --replace replaced, and erase the new one. That is possible "
        "until the new voice has settled a trip.",
        "whodrives drivers restore Anna",
    )
    restore.add_argument("who", metavar="WHO")
    restore.set_defaults(command=_restore)


def _add_alike(actions: _Commands) -> None:
    alike = _add(
        actions,
        "alike",
        "how alike the household's voices are",
        "Print how alike each two voices are (cosine relative to the mean voice; 1: the same), and "
        "whom that makes hard to tell apart.",
        "whodrives drivers alike",
        "whodrives drivers alike --picture household.png",
    )
    alike.add_argument("--picture", type=Path, metavar="FILE.png", help="draw it, with matplotlib")
    alike.set_defaults(command=_alike)


def _add_export(actions: _Commands) -> None:
    export = _add(
        actions,
        "export",
        "the whole household into one file, under a passphrase",
        "Write everybody who is enrolled into a new file, sealed with a passphrase, to take them "
        "to another car.",
        "whodrives drivers export household.whodrives",
    )
    export.add_argument("file", type=Path, metavar="FILE")
    _add_passphrase(export)
    export.set_defaults(command=_export)


def _add_import(actions: _Commands) -> None:
    arrive = _add(
        actions,
        "import",
        "take in a household that was exported",
        "Take in the drivers of an exported file: all of them, or none if one is here already.",
        "whodrives drivers import household.whodrives",
    )
    arrive.add_argument("file", type=Path, metavar="FILE")
    _add_passphrase(arrive)
    arrive.set_defaults(command=_import)


def _add_passphrase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="a file whose first line is the passphrase (without: it is asked)",
    )


def _add_forget(actions: _Commands) -> None:
    forget = _add(
        actions,
        "forget",
        "erase voice and preferences for ever",
        "Erase a driver's voice and preferences for ever; there is no way back.",
        "whodrives drivers forget Anna",
    )
    forget.add_argument("who", metavar="WHO")
    forget.set_defaults(command=_forget)


def _add_preferences(actions: _Commands) -> None:
    preferences = _add(
        actions,
        "preferences",
        "print or change where seat and mirrors go",
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
        "--previous", action="store_true", help="bring back the ones before the last change"
    )
    preferences.set_defaults(command=_preferences)


def _add_history(actions: _Commands) -> None:
    history = _add(
        actions,
        "history",
        "what a profile has learned since it was enrolled",
        "Show the steps by which a profile followed its driver's voice, and what is in quarantine. "
        "A cosine of 1 is the enrolled voice itself.",
        "whodrives drivers history Anna",
    )
    history.add_argument("who", metavar="WHO")
    history.set_defaults(command=_history)


def _add_undo(actions: _Commands) -> None:
    undo = _add(
        actions,
        "undo",
        "take back what a profile learned last",
        "Take back the latest step that a profile learned, and empty its quarantine.",
        "whodrives drivers undo Anna",
        "whodrives drivers undo Anna --all     back to the voice as it was enrolled",
    )
    undo.add_argument("who", metavar="WHO")
    undo.add_argument("--all", action="store_true", help="every step, and the quarantine")
    undo.set_defaults(command=_undo)


def _add_key(actions: _Commands) -> None:
    key = _add(
        actions,
        "key",
        "the key fob that is a driver's",
        "Print, set or clear the key fob that settles this driver without a voice. ID is what the "
        "car says in Vehicle.Occupant.Row1.DriverSide.Identifier.Subject.",
        "whodrives drivers key Anna --set 4f1a9c",
        "whodrives drivers key Anna --clear",
    )
    key.add_argument("who", metavar="WHO")
    change = key.add_mutually_exclusive_group()
    change.add_argument("--set", metavar="ID", dest="fob")
    change.add_argument("--clear", action="store_true")
    key.set_defaults(command=_key)


def _add_replay(commands: _Commands) -> None:
    parser = _add(
        commands,
        "replay",
        "a recording to events, as JSON lines",
        "What the daemon would have said of a recording, as fast as it can be read; the same "
        "bytes every time. Times count from the start of the recording, as if it had begun at "
        "1970-01-01T00:00:00Z.",
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
        help='what the car said meanwhile: JSON lines {"at_s": 0.0, "signals": {PATH: VALUE}}; '
        "each holds until the next (without: no car, so nothing is applied)",
    )
    parser.set_defaults(command=_replay)


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
    parser.set_defaults(command=_demo)


def _add_doctor(commands: _Commands) -> None:
    parser = _add(
        commands,
        "doctor",
        "what is wrong, and how to mend it",
        "Check models, profiles, microphone, level and broker; one line each. Exits 1 when "
        "something is to be mended. Speak while it listens.",
        "whodrives doctor",
        "sudo -u whodrives whodrives doctor     with the rights of the service",
    )
    parser.set_defaults(command=_doctor)


def _add_config(commands: _Commands) -> None:
    parser = _add(
        commands,
        "config",
        "the configuration that is in force",
        "Print every setting with its meaning and the value in force, defaults included, as a "
        "file that --config takes.",
        "whodrives config > whodrives.yaml",
        "whodrives --config whodrives.yaml config",
    )
    parser.set_defaults(command=_config)


# --- configuration --------------------------------------------------------------------------------


def load_config(path: Path | None) -> Config:
    """The configuration of `path`, of the system, or a laptop's.

    Raises:
        ConfigError: the file cannot be read or has mistakes.
    """
    path = path or (SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else None)
    return config.parse(_read(path, ConfigError), str(path)) if path else _laptop()


def _laptop() -> Config:
    """The defaults for somebody who tries whodrives in a checkout, without an installation."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = config.ProfileFiles(
        directory=str(data / "whodrives/profiles"),
        key_file=str(settings / "whodrives/profile-key"),
    )
    return Config(profiles=files, models=config.ModelFiles(directory=str(CHECKOUT / "models")))


# --- commands -------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    serve(lambda: load_config(options.config))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from whodrives.demo import play  # noqa: PLC0415 (only the demo needs all that it imports)

    return 0 if play(Console(), options.picture) else 1


def _doctor(options: argparse.Namespace) -> int:
    from whodrives.doctor import examine  # noqa: PLC0415 (only the doctor needs it)

    return 0 if examine(load_config(options.config), Console()) else 1


def _config(options: argparse.Namespace) -> int:
    print(config.render(load_config(options.config)), end="")
    return 0


def _enrol(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    if options.road and options.files:
        raise ProfileError("--road records once more while you drive; leave it out with recordings")
    store = open_store(settings)
    wish = Wish(
        options.name,
        options.files,
        replace=options.replace,
        road=options.road,
        consent=options.consent,
        accept_alike=options.accept_alike,
    )
    stored = enrol(wish, settings, store, Console(stderr=True))
    heard = f"{stored.profile.speech_s:.1f} s of speech"
    print(f"{stored.name} is enrolled as {stored.profile.id} from {heard}.")
    if stored.profile.speech_s < ENOUGH_S:
        print(f"{ENOUGH_S:.0f} s would make a stronger profile: enrol again with --replace.")
    if stored.before:
        who = shlex.quote(stored.name)
        print("The voice before is kept until the new one has settled a trip; to go back to it:")
        print(f"  whodrives drivers restore {who}")
    if not stored.profile.preferences:
        who = shlex.quote(stored.name)
        print(f"Next: whodrives drivers preferences {who} --set PATH=VALUE")
    print("A running daemon takes it in after: systemctl reload whodrives (or SIGHUP)")
    return 0


def _list(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    loaded = open_store(settings).load()
    if loaded.profiles:
        table = Table("name", "id", "enrolled", "recognised", "speech", "preferences", box=None)
        for stored in loaded.profiles:
            count = len(stored.profile.preferences)
            table.add_row(
                escape(stored.name),
                stored.profile.id,
                stored.enrolled_at,
                stored.recognised_on or "not yet",
                f"{stored.profile.speech_s:.0f} s",
                str(count or "none"),
            )
        Console().print(table)
    else:
        print("Nobody is enrolled. Begin with: whodrives enrol NAME")
    for stored, days in unused(loaded.profiles, settings.profiles.retention_days):
        who = shlex.quote(stored.name)
        print(
            f"{stored.name} was not recognised for {days} days. If this driver is not coming back:"
        )
        print(f"  whodrives drivers forget {who}")
    for problem in loaded.problems:
        print(f"whodrives: {problem}", file=sys.stderr)
    return 1 if loaded.problems else 0


def _show(options: argparse.Namespace) -> int:
    stored = _find(open_store(load_config(options.config)), options.who)
    print(f"{stored.name}: {stored.profile.id}, enrolled {stored.enrolled_at}", end=" ")
    print(f"from {stored.profile.speech_s:.1f} s of speech")
    agreed = stored.consent
    said = f"{agreed.by}, {agreed.at}, text {agreed.text}" if agreed else "not recorded here"
    print(f"consent: {said}")
    print(f"key: {stored.profile.key or 'none'}")
    print(config.render_preferences(stored.profile.preferences), end="")
    return 0


def _find(store: ProfileStore, who: str) -> StoredProfile:
    """The usable profile of this name or id."""
    loaded = store.load()
    for stored in loaded.profiles:
        if stored.is_called(who):
            return stored
    names = ", ".join(stored.name for stored in loaded.profiles) or "nobody"
    unusable = "".join(f"\n  cannot be used: {problem}" for problem in loaded.problems)
    raise ProfileError(f"no driver is called {who}; enrolled: {names}{unusable}")


def _rename(options: argparse.Namespace) -> int:
    stored = open_store(load_config(options.config)).rename(options.who, options.name)
    print(f"{stored.profile.id} is now called {stored.name}.")
    return 0


def _restore(options: argparse.Namespace) -> int:
    stored = open_store(load_config(options.config)).restore(options.who)
    print(f"{stored.name} has the voice of {stored.enrolled_at} again.")
    print("A running daemon knows after: systemctl reload whodrives (or SIGHUP)")
    return 0


def _forget(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    calibration = load_calibration(Path(settings.models.directory))
    receipt = forget(open_store(settings), options.who, calibration)
    print(f"{options.who} is forgotten. Receipt of {receipt.at} for {receipt.driver}; erased:")
    for thing in receipt.erased:
        print(f"  - {thing}")
    print("A running daemon forgets after: systemctl reload whodrives (or SIGHUP)")
    return 0


def _history(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    stored = _find(open_store(settings), options.who)
    profile, known = stored.profile, stored.profile.adaptation
    print(f"{stored.enrolled_at}  enrolled from {profile.speech_s:.1f} s of speech")
    for step in known.steps:
        days = [date.fromordinal(trip.day).isoformat() for trip in step.trips]
        print(
            f"{date.fromordinal(step.day)}  learned from {_trips(step.trips)} ({', '.join(days)})"
        )
    if known.held:
        print(f"in quarantine: {_trips(known.held)}")
    calibration = load_calibration(Path(settings.models.directory))
    print(f"now: cosine {adaptation.drift(profile, calibration):.2f} to the voice as enrolled")
    return 0


def _trips(trips: Sequence[Held]) -> str:
    """Where speech comes from, in words: how much, how noisy, how like the enrolled voice."""
    speech_s = sum(trip.speech_s for trip in trips)
    noise = ", ".join(dict.fromkeys(str(trip.noise) for trip in trips))
    least = min(trip.anchor_cosine for trip in trips)
    count = f"{len(trips)} trip{'s' if len(trips) > 1 else ''}"
    return f"{count}: {speech_s:.1f} s, noise {noise}, cosine from {least:.2f}"


def _undo(options: argparse.Namespace) -> int:
    store = open_store(load_config(options.config))
    name = _find(store, options.who).name
    count = 0

    def taken_back(profile: Profile) -> Profile:
        nonlocal count
        while True:
            profile, step = adaptation.undone(profile)
            count += step is not None
            if step is None or not options.all:
                return profile

    store.change(options.who, taken_back)
    if not count:
        print(f"{name}'s profile has learned nothing yet; the quarantine is empty now.")
        return 0
    print(f"Taken back: {count} step{'s' if count > 1 else ''}; the quarantine is empty.")
    print("A running daemon knows after: systemctl reload whodrives (or SIGHUP)")
    return 0


def _alike(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    household = open_store(settings).load().profiles
    Console().print(likeness_table(household, settings))
    if options.picture:
        likeness_picture(household, settings, options.picture)
    return 0


def _export(options: argparse.Namespace) -> int:
    store = open_store(load_config(options.config))
    count = store.export(options.file, _passphrase(options.passphrase_file, again=True))
    print(f"{count} drivers are in {options.file}; without the passphrase nobody can read it.")
    return 0


def _import(options: argparse.Namespace) -> int:
    store = open_store(load_config(options.config))
    arrived = store.import_household(options.file, _passphrase(options.passphrase_file))
    for stored in arrived:
        print(f"{stored.name} is here as {stored.profile.id}.")
    print("A running daemon takes them in after: systemctl reload whodrives (or SIGHUP)")
    return 0


def _passphrase(path: Path | None, *, again: bool = False) -> str:
    """The passphrase of a file's first line, or of whoever sits at the terminal."""
    if path:
        return _read(path, ProfileError).partition("\n")[0].rstrip("\r")
    if not sys.stdin.isatty():
        raise ProfileError("there is no terminal to ask for a passphrase; give --passphrase-file")
    given = getpass.getpass("Passphrase: ")
    if again and getpass.getpass("Once more: ") != given:
        raise ProfileError("the two passphrases differ; begin again")
    return given


def _preferences(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    store = open_store(settings)
    stored = _find(store, options.who)
    if options.previous and (options.file or options.changes):
        raise ProfileError("--previous brings others back; give it alone")
    if options.previous:
        stored = store.bring_back_preferences(options.who)
    elif options.file or options.changes:
        wanted = dict(stored.profile.preferences)
        if options.file:
            text = _read(options.file, ProfileError)
            wanted = _preferences_text(text, str(options.file), settings)
        if options.changes:
            lines = "\n".join(_preference_line(change) for change in options.changes)
            wanted |= _preferences_text(lines, "--set", settings)
        stored = store.set_preferences(options.who, wanted)
    print(config.render_preferences(stored.profile.preferences), end="")
    return 0


def _key(options: argparse.Namespace) -> int:
    store = open_store(load_config(options.config))
    stored = _find(store, options.who)
    if options.clear or options.fob is not None:
        stored = store.set_key(options.who, options.fob)
        print("A running daemon knows after: systemctl reload whodrives (or SIGHUP)")
    print(f"key: {stored.profile.key or 'none'}")
    return 0


def _preferences_text(text: str, name: str, settings: Config) -> dict[str, float]:
    return config.parse_preferences(text, name, settings.vehicle.signals)


def _preference_line(change: str) -> str:
    path, equals, value = change.partition("=")
    if not equals:
        raise ProfileError(f"--set {change}: is not PATH=VALUE; give for example {path}=10")
    return f"{path}: {value}"


def _read(path: Path, mistake: type[WhodrivesError]) -> str:
    """The file's text; raises `mistake` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise mistake(f"{path}: {error.strerror}; give a file that can be read") from error
    except UnicodeDecodeError as error:
        raise mistake(f"{path}: is not text in UTF-8; save it as UTF-8") from error


# --- replay ---------------------------------------------------------------------------------------

HOLD_S = 0.5
"""A recorded vehicle value is repeated this often, as a car on the bus would."""

LONGEST_S = 3600.0
"""The last recorded vehicle state holds for an hour; so may any other."""

LATEST_S = 1e9
"""A recorded car says nothing later than this: its seconds are written as a calendar's."""


def _replay(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    blocks = _recording(str(options.file), settings)
    house = household(open_store(settings), 0.0)
    for problem in house.problems:
        print(f"whodrives: {problem}", file=sys.stderr)
    news = recorded_vehicle(options.vehicle, settings.vehicle.id) if options.vehicle else []
    for event in service.replay(load_recognizer(settings), house, blocks, news):
        if line := json_line(event, settings.vehicle):
            print(line, flush=True)
    return 0


def _recording(name: str, settings: Config) -> Iterator[AudioBlock]:
    """The blocks of a file, or of raw PCM on standard input."""
    if name == config.PIPE:
        sound = settings.sound
        stream = FileIO(sys.stdin.fileno(), closefd=False)
        return read_pipe(stream, sound.rate_hz, sound.channels)
    return read_file(Path(name))


def json_line(event: Event, vehicle: config.Vehicle) -> str | None:
    """An event as the message it would have been; None if it would have been none."""
    message = contract.encode(event, vehicle, 0.0)
    if message is None:
        return None
    payload = json.loads(message.payload) if message.payload else None
    line = {"at_s": round(event.at_s, 3), "topic": message.topic, "payload": payload}
    return json.dumps(line, ensure_ascii=False)


def recorded_vehicle(path: Path, vehicle: str) -> list[Input]:
    """What a car said, from JSON lines; each line holds until the next and is said every HOLD_S.

    The last line holds for LONGEST_S.

    Raises:
        PayloadError: a line is wrong; the text names it.
    """
    texts = _read(path, PayloadError).splitlines()
    lines = [_vehicle_line(path, number, text) for number, text in enumerate(texts, 1)]
    ends = [at_s for at_s, _ in lines[1:]] + [lines[-1][0] + LONGEST_S] if lines else []
    decoder = contract.Decoder(vehicle)
    news: list[Input] = []
    signals: dict[str, object] = {}
    for number, ((at_s, changes), end_s) in enumerate(zip(lines, ends, strict=True), 1):
        if not 0.0 <= end_s - at_s <= LONGEST_S:
            said = f"the next line is {end_s - at_s:.1f} s later; give 0 to {LONGEST_S:.0f} s"
            raise PayloadError(f"{path}:{number}: at_s: {said}")
        signals |= changes
        for repeat in range(math.ceil((end_s - at_s) / HOLD_S)):
            then_s = at_s + repeat * HOLD_S
            news.append(_vehicle_report(decoder, vehicle, signals, then_s, f"{path}:{number}"))
    return news


def _vehicle_line(path: Path, number: int, text: str) -> tuple[float, dict[str, object]]:
    try:
        line = json.loads(text)
        at_s = float(line["at_s"])
        if not 0.0 <= at_s < LATEST_S:
            said = f"at_s is no number from 0 to {LATEST_S:.0f}"
            raise ValueError(said)  # noqa: TRY301 (said as the others are)
        return at_s, dict(line["signals"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise PayloadError(
            f'{path}:{number}: {error!r}; give {{"at_s": SECONDS, "signals": {{PATH: VALUE}}}}'
        ) from error


def _vehicle_report(
    decoder: contract.Decoder, vehicle: str, signals: Mapping[str, object], at_s: float, where: str
) -> VehicleReport:
    """The report a car would have made of these signals, read as the daemon reads it."""
    time_of = {"time": datetime.fromtimestamp(at_s, UTC).isoformat()}
    body = {"schema": 1, "signals": {p: {"value": v} | time_of for p, v in signals.items()}}
    topic = f"{contract.root(vehicle)}/vehicle"
    try:
        report = decoder.decode(topic, json.dumps(body).encode(), at_s, at_s)
    except PayloadError as error:
        raise PayloadError(f"{where}: {error}") from error
    if not isinstance(report, VehicleReport):
        raise PayloadError(f"{where}: says nothing of the vehicle; give signals of docs/mqtt.md")
    return report
