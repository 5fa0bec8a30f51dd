"""The command line: run, enrol, drivers, replay, demo, doctor.

Owns words for people: arguments, tables, progress, exit codes. What the commands do is done
elsewhere. Exit codes: 0 done, 1 not done (the text says what to mend), 2 wrong usage, 78 wrong
configuration or model (sysexits.h's EX_CONFIG; systemd does not restart on it), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from whodrives import __version__, bus, config, service
from whodrives.capture import Microphone, read_file
from whodrives.config import Config
from whodrives.domain import (
    Apply,
    AudioBlock,
    ConfigError,
    EnrolmentError,
    Event,
    Input,
    ModelError,
    PayloadError,
    ProfileError,
    SourceError,
    SourceHealth,
    SourceState,
    VehicleReport,
    WhodrivesError,
)
from whodrives.enrolment import ENOUGH_S, LEAST_S, Enrolled, Enrolment, Progress
from whodrives.inference import load_encoder, load_gate
from whodrives.profiles import ProfileStore, StoredProfile
from whodrives.service import Daemon, household, load_recognizer, open_store

CHECKOUT = Path(__file__).parents[2]
SYSTEM_CONFIG = Path("/etc/whodrives/whodrives.yaml")
EX_CONFIG = 78
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        code: int = options.command(options)
    except (ConfigError, ModelError) as error:
        print(f"whodrives: {error}", file=sys.stderr)
        return EX_CONFIG
    except WhodrivesError as error:
        print(f"whodrives: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


# --- the arguments --------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whodrives",
        description="Hears which enrolled driver speaks, and tells the car how to fit itself.",
        epilog="First steps: whodrives demo; then whodrives doctor; then whodrives enrol NAME.",
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
    return parser


# argparse has no public name for what add_subparsers returns.
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def _add_run(commands: _Commands) -> None:
    parser = commands.add_parser(
        "run",
        help="listen and tell the car",
        description="Listen to the configured source and publish who speaks. SIGHUP reads the "
        "profiles again; SIGTERM ends it.",
    )
    parser.set_defaults(command=_run)


def _add_enrol(commands: _Commands) -> None:
    parser = commands.add_parser(
        "enrol",
        help="learn a driver's voice",
        description=f"Learn a voice from {ENOUGH_S:.0f} s of speech (at least {LEAST_S:.0f} s), "
        "in any words and language: from the microphone, or from recordings of this one person.",
        epilog="Then: whodrives drivers preferences NAME --set PATH=VALUE",
    )
    parser.add_argument("name", help="what the driver is called; stays in the sealed store")
    parser.add_argument("files", nargs="*", type=Path, help="recordings; none: the microphone")
    parser.add_argument("--replace", action="store_true", help="enrol this driver anew")
    parser.set_defaults(command=_enrol)


def _add_drivers(commands: _Commands) -> None:
    parser = commands.add_parser(
        "drivers",
        help="list, show, rename, forget; preferences",
        description="Look after the enrolled drivers. WHO is a name or an id.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="everybody who is enrolled")
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", help="one driver and the preferences")
    show.add_argument("who")
    show.set_defaults(command=_show)
    rename = actions.add_parser("rename", help="call a driver something else")
    rename.add_argument("who")
    rename.add_argument("name")
    rename.set_defaults(command=_rename)
    forget = actions.add_parser("forget", help="erase voice and preferences for ever")
    forget.add_argument("who")
    forget.set_defaults(command=_forget)
    preferences = actions.add_parser(
        "preferences",
        help="print or change where seat and mirrors go",
        description="Without options: print them as YAML. Paths and units are VSS's.",
    )
    preferences.add_argument("who")
    preferences.add_argument("--set", nargs="+", metavar="PATH=VALUE", default=[], dest="changes")
    preferences.add_argument("--file", type=Path, help="YAML with all of them, 'path: value'")
    preferences.set_defaults(command=_preferences)


def _add_replay(commands: _Commands) -> None:
    parser = commands.add_parser(
        "replay",
        help="a recording to events, as JSON lines",
        description="What the daemon would have said of a recording, as fast as it can be read; "
        "the same bytes every time. Times count from the start of the recording, as if it "
        "had begun at 1970-01-01T00:00:00Z.",
    )
    parser.add_argument("file", type=Path, help="WAV, FLAC, Ogg Opus, ... of 16 kHz or more")
    parser.add_argument(
        "--vehicle",
        type=Path,
        metavar="FILE",
        help='what the car said meanwhile: JSON lines {"at_s": 0.0, "signals": {PATH: VALUE}}; '
        "each holds until the next (without: no car, so nothing is applied)",
    )
    parser.set_defaults(command=_replay)


def _add_demo(commands: _Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="a recorded drive, live on this terminal",
        description="Play a recorded drive of about a minute to a real daemon, with a real broker "
        "and a simulated seat. Needs a checkout and mosquitto; no microphone.",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="save the last screen")
    parser.set_defaults(command=_demo)


def _add_doctor(commands: _Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what is wrong, and how to mend it",
        description="Check models, profiles, microphone, level and broker; one line each.",
    )
    parser.set_defaults(command=_doctor)


# --- configuration --------------------------------------------------------------------------------


def load_config(path: Path | None) -> Config:
    """The configuration of `path`, of the system, or a laptop's.

    Raises:
        ConfigError: the file cannot be read or has mistakes.
    """
    path = path or (SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else None)
    if path is None:
        return _laptop()
    try:
        return config.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; give a readable YAML file") from error


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
    Daemon(load_config(options.config)).run()
    return 0


def _demo(options: argparse.Namespace) -> int:
    from whodrives.demo import play  # noqa: PLC0415 (only the demo needs all that it imports)

    return 0 if play(Console(), options.picture) else 1


def _doctor(options: argparse.Namespace) -> int:
    from whodrives.doctor import examine  # noqa: PLC0415 (only the doctor needs it)

    return 0 if examine(load_config(options.config), Console()) else 1


def _enrol(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    store = open_store(settings)
    _refuse_namesake(store, options.name, replace=options.replace)
    models = Path(settings.models.directory)
    enrolment = Enrolment(load_gate(models), load_encoder(models))
    if options.files:
        enrolled = enrol_files(enrolment, options.files)
    else:
        enrolled = _enrol_live(enrolment, settings.sound.device)
    stored = store.save(
        options.name, enrolled.embeddings, enrolled.speech_s, replace=options.replace
    )
    heard = f"{enrolled.speech_s:.1f} s of speech"
    print(f"{stored.name} is enrolled as {stored.profile.id} from {heard}.")
    if enrolled.speech_s < ENOUGH_S:
        print(f"{ENOUGH_S:.0f} s would make a stronger profile: enrol again with --replace.")
    if not stored.profile.preferences:
        print(f"Next: whodrives drivers preferences {stored.name} --set PATH=VALUE")
    print("A running daemon takes it in after: systemctl reload whodrives (or SIGHUP)")
    return 0


def _refuse_namesake(store: ProfileStore, name: str, *, replace: bool) -> None:
    """Say so before anybody has spoken for twenty seconds."""
    taken = any(stored.name.casefold() == name.casefold() for stored in store.load().profiles)
    if taken and not replace:
        raise EnrolmentError(f"{name} is enrolled already; take another name, or give --replace")


def enrol_files(enrolment: Enrolment, files: Sequence[Path]) -> Enrolled:
    """Enrol one person from recordings.

    Raises:
        SourceError: a file cannot be used.
        EnrolmentError: together they do not make a good profile; names the files.
    """
    end_s = 0.0
    for path in files:
        for block in read_file(path):
            enrolment.step(replace(block, at_s=end_s + block.at_s))
        end_s += block.at_s
        enrolment.pause(end_s)
    try:
        return enrolment.finish(end_s)
    except EnrolmentError as error:
        raise EnrolmentError(f"{', '.join(map(str, files))}:\n{error}") from error


def _enrol_live(enrolment: Enrolment, device: str | int | None) -> Enrolled:
    """Enrol whoever speaks into the microphone; Ctrl-C ends it early."""
    console = Console(stderr=True)
    console.print(
        "Speak freely, in any language, about anything: the way here, the weather, the week. "
        f"It stops by itself after {ENOUGH_S:.0f} s of speech; Ctrl-C ends it early."
    )
    at_s = 0.0
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, transient=True) as live:
        for block in _microphone(device):
            at_s = block.at_s
            progress = enrolment.step(block)
            live.update(_meter(progress))
            if progress.speech_s >= ENOUGH_S:
                break
    return enrolment.finish(at_s)


def _microphone(device: str | int | None) -> Iterator[AudioBlock]:
    """The microphone's blocks; SourceError when it is lost or gives nothing."""
    inbox: SimpleQueue[AudioBlock | SourceState] = SimpleQueue()
    microphone = Microphone(device, inbox.put)
    microphone.open()
    try:
        while True:
            try:
                item = inbox.get(timeout=0.5)
            except Empty:
                if microphone.stalled(time.monotonic()):
                    raise SourceError(
                        "microphone: gives no sound; is it muted in the mixer?"
                    ) from None
                continue
            if isinstance(item, AudioBlock):
                microphone.taken()
                yield item
            elif item.health is SourceHealth.LOST:
                raise SourceError(f"microphone: {item.reason}; plug it in and begin again")
    finally:
        microphone.close()


def _meter(progress: Progress) -> Table:
    level = max(0.0, min(60.0, progress.level_dbfs + 60.0))
    table = Table(box=None, show_header=False)
    table.add_row("level", ProgressBar(60.0, level, width=40), f"{progress.level_dbfs:.0f} dBFS")
    speaking = Text("speaking" if progress.speaking else "", "green")
    bar = ProgressBar(ENOUGH_S, min(progress.speech_s, ENOUGH_S), width=40)
    table.add_row("speech", bar, f"{progress.speech_s:.0f} of {ENOUGH_S:.0f} s", speaking)
    return table


def _list(options: argparse.Namespace) -> int:
    loaded = open_store(load_config(options.config)).load()
    if loaded.profiles:
        table = Table("name", "id", "enrolled", "speech", "preferences", box=None)
        for stored in loaded.profiles:
            count = len(stored.profile.preferences)
            table.add_row(
                escape(stored.name),
                stored.profile.id,
                stored.enrolled_at,
                f"{stored.profile.speech_s:.0f} s",
                str(count or "none"),
            )
        Console().print(table)
    else:
        print("Nobody is enrolled. Begin with: whodrives enrol NAME")
    for problem in loaded.problems:
        print(f"whodrives: {problem}", file=sys.stderr)
    return 1 if loaded.problems else 0


def _show(options: argparse.Namespace) -> int:
    stored = _find(open_store(load_config(options.config)), options.who)
    print(f"{stored.name}: {stored.profile.id}, enrolled {stored.enrolled_at}", end=" ")
    print(f"from {stored.profile.speech_s:.1f} s of speech")
    print(config.render_preferences(stored.profile.preferences), end="")
    return 0


def _find(store: ProfileStore, who: str) -> StoredProfile:
    """The usable profile of this name or id."""
    profiles = store.load().profiles
    for stored in profiles:
        if who.casefold() in (stored.name.casefold(), stored.profile.id):
            return stored
    names = ", ".join(stored.name for stored in profiles) or "nobody"
    raise ProfileError(f"no driver is called {who}; enrolled: {names}")


def _rename(options: argparse.Namespace) -> int:
    stored = open_store(load_config(options.config)).rename(options.who, options.name)
    print(f"{stored.profile.id} is now called {stored.name}.")
    return 0


def _forget(options: argparse.Namespace) -> int:
    open_store(load_config(options.config)).forget(options.who)
    print(f"{options.who} is forgotten: voice and preferences are erased.")
    print("A running daemon forgets after: systemctl reload whodrives (or SIGHUP)")
    return 0


def _preferences(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    store = open_store(settings)
    stored = _find(store, options.who)
    if options.file or options.changes:
        wanted = dict(stored.profile.preferences)
        if options.file:
            wanted = _preferences_text(_read(options.file), str(options.file), settings)
        if options.changes:
            lines = "\n".join(change.replace("=", ": ", 1) for change in options.changes)
            wanted |= _preferences_text(lines, "--set", settings)
        stored = store.set_preferences(options.who, wanted)
    print(config.render_preferences(stored.profile.preferences), end="")
    return 0


def _preferences_text(text: str, name: str, settings: Config) -> dict[str, float]:
    return config.parse_preferences(text, name, settings.vehicle.signals)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; give a readable text file") from error


# --- replay ---------------------------------------------------------------------------------------

HOLD_S = 0.5
"""A recorded vehicle value is repeated this often, as a car on the bus would."""

LONGEST_S = 3600.0
"""The last recorded vehicle state holds for an hour."""


def _replay(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    blocks = read_file(options.file)
    house = household(open_store(settings), 0.0)
    for problem in house.problems:
        print(f"whodrives: {problem}", file=sys.stderr)
    news = recorded_vehicle(options.vehicle, settings.vehicle.id) if options.vehicle else []
    for number, event in enumerate(service.replay(load_recognizer(settings), house, blocks, news)):
        print(json_line(event, settings.vehicle.id, number), flush=True)
    return 0


def json_line(event: Event, vehicle: str, number: int) -> str:
    """An event as the message it would have been; `number` makes the request id of an Apply."""
    if isinstance(event, Apply):
        request_id = uuid.uuid5(uuid.NAMESPACE_URL, f"replay:{vehicle}:{number}")
        message = bus.encode_apply(event, vehicle, 0.0, request_id)
    else:
        message = bus.encode(event, vehicle, 0.0)
    payload = json.loads(message.payload) if message.payload else None
    line = {"at_s": round(event.at_s, 3), "topic": message.topic, "payload": payload}
    return json.dumps(line, ensure_ascii=False)


def recorded_vehicle(path: Path, vehicle: str) -> list[Input]:
    """What a car said, from JSON lines; each line holds until the next and is said every HOLD_S.

    The last line holds for LONGEST_S.

    Raises:
        ConfigError: a line is wrong; the text names it.
    """
    lines = [_vehicle_line(path, n, text) for n, text in enumerate(_read(path).splitlines(), 1)]
    ends = [at_s for at_s, _ in lines[1:]] + [lines[-1][0] + LONGEST_S] if lines else []
    decoder = bus.Decoder(vehicle)
    news: list[Input] = []
    signals: dict[str, object] = {}
    for number, ((at_s, changes), end_s) in enumerate(zip(lines, ends, strict=True), 1):
        signals |= changes
        for repeat in range(math.ceil((end_s - at_s) / HOLD_S)):
            then_s = at_s + repeat * HOLD_S
            news.append(_vehicle_report(decoder, vehicle, signals, then_s, f"{path}:{number}"))
    return news


def _vehicle_line(path: Path, number: int, text: str) -> tuple[float, dict[str, object]]:
    try:
        line = json.loads(text)
        return float(line["at_s"]), dict(line["signals"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f'{path}:{number}: {error!r}; give {{"at_s": SECONDS, "signals": {{PATH: VALUE}}}}'
        ) from error


def _vehicle_report(
    decoder: bus.Decoder, vehicle: str, signals: Mapping[str, object], at_s: float, where: str
) -> VehicleReport:
    """The report a car would have made of these signals, read as the daemon reads it."""
    time_of = {"time": datetime.fromtimestamp(at_s, UTC).isoformat()}
    body = {"schema": 1, "signals": {p: {"value": v} | time_of for p, v in signals.items()}}
    topic = f"{bus.root(vehicle)}/vehicle"
    try:
        report = decoder.decode(topic, json.dumps(body).encode(), at_s, at_s)
    except PayloadError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(report, VehicleReport):
        raise ConfigError(f"{where}: says nothing of the vehicle")
    return report
