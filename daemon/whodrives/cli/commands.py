"""The commands other than `run`.

Owns what they print and their exit codes; the work is done by other packages.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from io import FileIO
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whodrives.adaptation import following
from whodrives.audio.blocks import AudioBlock
from whodrives.audio.files import read_file
from whodrives.audio.pipe import read_pipe
from whodrives.cli.enrol import EnrolOptions, ask, enrol, similarity_picture, similarity_table
from whodrives.config import codec, schema
from whodrives.config.location import SYSTEM_CONFIG, load_config, read_text, spelled
from whodrives.config.schema import Config
from whodrives.core.events import Event, Input
from whodrives.enrolment.recording import ENOUGH_S
from whodrives.errors import BusyError, PayloadError, ProfileError, SourceError
from whodrives.mqtt import decode, encode, topics
from whodrives.service import replay
from whodrives.service.channels import taken_channel
from whodrives.service.control import connect
from whodrives.service.household import household
from whodrives.service.learning import forget
from whodrives.service.wiring import load_policy, load_recognizer, open_store
from whodrives.store.calendar import believed
from whodrives.store.names import checked
from whodrives.store.profiles import ProfileStore, missed, unused
from whodrives.store.record import StoredProfile
from whodrives.vehicle import vss
from whodrives.vehicle.state import VehicleReport
from whodrives.voice.profile import PendingTrip, Profile

ASKED = "-"
"""Argument in the place of a name that is to be asked for."""


def perform(command: str, options: argparse.Namespace) -> int:
    """Run one command with its options; returns the exit code."""
    for field, asked in _ASKED.items():
        if getattr(options, field, None) == ASKED:
            unanswered = (
                f"nobody said {asked}; give it, or answer on the terminal or standard input"
            )
            read = checked if field == "name" else str
            answer = ask(f"{asked}: ", read, Console(stderr=True), unanswered=unanswered)
            setattr(options, field, answer)
    return _COMMANDS[command](options)


_ASKED = {"who": "which driver (name or id)", "name": "the driver's name", "fob": "the key's id"}
"""Arguments that can be asked for, in this order, to keep them out of the process list."""


def _next(options: argparse.Namespace, *lines: str) -> None:
    """Print commands for the next step."""
    for line in lines:
        print(spelled(line, options.config))


def _reload(options: argparse.Namespace) -> None:
    """Make a running daemon load the change, or print how to."""
    try:
        control = connect(load_config(options.config))
        if control is None:
            return
        with contextlib.closing(control):
            control.reload()
        print("The running daemon loads this now.")
    except BusyError as error:
        service = options.config in (None, SYSTEM_CONFIG) and SYSTEM_CONFIG.exists()
        how = "sudo systemctl reload whodrives" if service else "SIGHUP, or a restart"
        print(f"The running daemon was not told ({error}).\nIt loads this after: {how}")


def _demo(options: argparse.Namespace) -> int:
    from whodrives.cli.demo import play  # noqa: PLC0415 (only the demo needs all that it imports)

    return 0 if play(Console(), options.picture) else 1


def _doctor(options: argparse.Namespace) -> int:
    from whodrives.cli.doctor import examine  # noqa: PLC0415 (only the doctor needs it)

    def say(text: str) -> str:
        return spelled(text, options.config)

    return 0 if examine(load_config(options.config), Console(), say) else 1


def _config(options: argparse.Namespace) -> int:
    print(codec.render(load_config(options.config)), end="")
    return 0


def _enrol(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    if options.road and options.files:
        raise ProfileError("--road records again while you drive; do not give it with recordings")
    store = open_store(settings)
    wish = EnrolOptions(
        options.name,
        options.files,
        replace=options.replace,
        again=options.again,
        road=options.road,
        consent=options.consent,
        accept_alike=options.accept_alike,
    )
    stored = enrol(wish, settings, store, Console(stderr=True))
    heard = f"{stored.profile.speech_s:.1f} s of speech"
    days = len({stored.enrolled_at, *(session.day for session in stored.added)})
    print(f"{stored.name} is enrolled as {stored.profile.id} from {heard}", end="")
    print(f" on {days} days." if days > 1 else ".")
    driver = stored.profile.id
    if stored.profile.speech_s < ENOUGH_S:
        print(f"{ENOUGH_S:.0f} s would make a stronger profile. To add more, today or later:")
        _next(options, f"  whodrives enrol {driver} --again")
    elif days == 1:
        print("A voice differs from day to day. To add another day, record on that day with:")
        _next(options, f"  whodrives enrol {driver} --again")
    if stored.before:
        print("The previous voice is kept until the new one has assigned a driver; to restore it:")
        _next(options, f"  whodrives drivers restore {driver}")
    if not stored.profile.preferences:
        print("Nothing moves yet. Set the seat's position, for example (mm from the front):")
        _next(options, f"  whodrives drivers preferences {driver} --set {vss.SEAT_POSITION}=120")
    _reload(options)
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
                believed(stored.enrolled_at) or "unknown",
                (believed(stored.recognised_on) or "unknown")
                if stored.recognised_on
                else "not yet",
                f"{stored.profile.speech_s:.0f} s",
                str(count or "none"),
            )
        Console().print(table)
    else:
        _next(options, "Nobody is enrolled. Begin with: whodrives enrol")
    for found in missed(loaded.profiles):
        print(spelled(found, options.config))
    for stored, days in unused(loaded.profiles, settings.profiles.retention_days):
        print(
            f"{stored.name} was not recognised for {days} days. If this driver is not coming back:"
        )
        _next(options, f"  whodrives drivers forget {stored.profile.id}")
    for problem in loaded.problems:
        print(f"whodrives: {spelled(problem, options.config)}", file=sys.stderr)
    return 1 if loaded.problems else 0


def _show(options: argparse.Namespace) -> int:
    stored = _find(open_store(load_config(options.config)), options.who)
    day = believed(stored.enrolled_at) or "on an unknown day"
    days = [day, *(believed(each.day) or "on an unknown day" for each in stored.added)]
    print(f"{stored.name}: {stored.profile.id}, enrolled {', '.join(days)}", end=" ")
    print(f"from {stored.profile.speech_s:.1f} s of speech")
    agreed = stored.consent
    at = (believed(agreed.at) or f"{agreed.at} (implausible clock)") if agreed else ""
    said = f"{agreed.by}, {at}, text {agreed.text}" if agreed else "not recorded here"
    print(f"consent: {said}")
    print(f"key: {stored.profile.key or 'none'}")
    print(codec.render_preferences(stored.profile.preferences), end="")
    return 0


def _find(store: ProfileStore, who: str) -> StoredProfile:
    """The usable profile with this name or id."""
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
    print(f"{stored.name} has the voice of {believed(stored.enrolled_at) or 'before'} again.")
    _reload(options)
    return 0


def _forget(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    calibration = load_policy(settings).calibration
    receipt = forget(open_store(settings), options.who, calibration)
    print(f"{options.who} is forgotten. Receipt of {receipt.at} for {receipt.driver}; erased:")
    for thing in receipt.erased:
        print(f"  - {thing}")
    _reload(options)
    return 0


def _history(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    stored = _find(open_store(settings), options.who)
    profile, known = stored.profile, stored.profile.adaptation
    day = believed(stored.enrolled_at) or "unknown   "
    first_s = profile.speech_s - sum(session.speech_s for session in stored.added)
    print(f"{day}  enrolled from {first_s:.1f} s of speech")
    for session in stored.added:
        print(f"{believed(session.day) or 'unknown   '}  again from {session.speech_s:.1f} s")
    for step in known.revisions:
        days = [date.fromordinal(trip.day).isoformat() for trip in step.trips]
        print(
            f"{date.fromordinal(step.day)}  learned from {_trips(step.trips)} ({', '.join(days)})"
        )
    if known.pending:
        print(f"in quarantine: {_trips(known.pending)}")
    calibration = load_policy(settings).calibration
    print(f"now: cosine {following.drift(profile, calibration):.2f} to the voice as enrolled")
    return 0


def _trips(trips: Sequence[PendingTrip]) -> str:
    """Summary of trips: seconds, noise, least cosine to the enrolment template, who told."""
    speech_s = sum(trip.speech_s for trip in trips)
    noise = ", ".join(dict.fromkeys(str(trip.noise) for trip in trips))
    least = min(trip.template_cosine for trip in trips)
    count = f"{len(trips)} trip{'s' if len(trips) > 1 else ''}"
    chosen = sum(trip.chosen for trip in trips)
    told = f", driver told by key or choice in {chosen}" if chosen else ""
    return f"{count}: {speech_s:.1f} s, noise {noise}, cosine from {least:.2f}{told}"


def _undo(options: argparse.Namespace) -> int:
    store = open_store(load_config(options.config))
    stored = _find(store, options.who)
    name = stored.name
    count = 0

    def taken_back(profile: Profile) -> Profile:
        nonlocal count
        while True:
            profile, step = following.rolled_back(profile)
            count += step is not None
            if step is None or not options.all:
                return profile

    store.change(stored.profile.id, taken_back)
    if not count:
        print(f"{name}'s profile has no revisions; the quarantine is empty now.")
        return 0
    print(f"Rolled back: {count} revision{'s' if count > 1 else ''}; the quarantine is empty.")
    _reload(options)
    return 0


def _alike(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    household = open_store(settings).load().profiles
    Console().print(similarity_table(household, settings))
    if options.picture:
        similarity_picture(household, settings, options.picture)
    return 0


def _export(options: argparse.Namespace) -> int:
    store = open_store(load_config(options.config))
    count = store.export(options.file, _passphrase(options.passphrase_file, again=True))
    print(f"{count} drivers are in {options.file}; it can be read only with the passphrase.")
    return 0


def _import(options: argparse.Namespace) -> int:
    store = open_store(load_config(options.config))
    arrived = store.import_household(options.file, _passphrase(options.passphrase_file))
    for stored in arrived:
        print(f"{stored.name} is here as {stored.profile.id}.")
    _reload(options)
    return 0


def _accept(options: argparse.Namespace) -> int:
    taken = open_store(load_config(options.config)).accept(options.whom)
    for stored in taken:
        print(f"{stored.name} is here as {stored.profile.id}.")
    if not taken:
        print("Nothing to accept: no other file opens with this key.")
        return 0
    _reload(options)
    return 0


def _passphrase(path: Path | None, *, again: bool = False) -> str:
    """The passphrase from a file's first line, or from the terminal."""
    if path:
        # A pipe, as the shell's <(...) is, has no rights to look at.
        if path.is_file() and path.stat().st_mode & 0o077:
            fix = f"run: chmod 600 {shlex.quote(str(path))}"
            raise ProfileError(f"{path}: others may read the passphrase; {fix}")
        return read_text(path, ProfileError).partition("\n")[0].rstrip("\r")
    if sys.stdin is None or not sys.stdin.isatty():
        raise ProfileError("there is no terminal to ask for a passphrase; give --passphrase-file")
    try:
        given = getpass.getpass("Passphrase: ")
        if again and getpass.getpass("Once more: ") != given:
            raise ProfileError("the two passphrases differ; start again")
        given.encode()
    except EOFError:
        raise ProfileError("no passphrase was typed; start again") from None
    except UnicodeError:
        said = "the passphrase is not UTF-8 text; type it in a terminal whose encoding is UTF-8"
        raise ProfileError(said) from None
    return given


def _preferences(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    store = open_store(settings)
    stored = _find(store, options.who)
    if options.previous and (options.file or options.changes):
        raise ProfileError("--previous restores the former preferences; give it alone")
    if options.previous:
        stored = store.bring_back_preferences(stored.profile.id)
    elif options.file or options.changes:
        wanted = dict(stored.profile.preferences)
        if options.file:
            text = read_text(options.file, ProfileError)
            wanted = _preferences_text(text, str(options.file), settings)
        if options.changes:
            lines = "\n".join(_preference_line(change) for change in options.changes)
            wanted |= _preferences_text(lines, "--set", settings)
        stored = store.set_preferences(stored.profile.id, wanted)
    print(codec.render_preferences(stored.profile.preferences), end="")
    if options.previous or options.file or options.changes:
        _reload(options)
    return 0


def _key(options: argparse.Namespace) -> int:
    store = open_store(load_config(options.config))
    stored = _find(store, options.who)
    if options.clear or options.fob is not None:
        stored = store.set_key(stored.profile.id, options.fob)
        _reload(options)
    print(f"key: {stored.profile.key or 'none'}")
    return 0


def _preferences_text(text: str, name: str, settings: Config) -> dict[str, float]:
    return codec.parse_preferences(text, name, settings.vehicle.signals)


def _preference_line(change: str) -> str:
    path, equals, value = change.partition("=")
    if not equals:
        example = f"{vss.SEAT_POSITION}=120"
        raise ProfileError(f"--set {change}: is not PATH=VALUE; give for example {example}")
    return f"{path}: {value}"


HOLD_S = 0.5
"""Interval at which recorded vehicle values are repeated, like those of a car on the bus."""


LONGEST_S = 3600.0
"""How long the last recorded vehicle state is valid, and the maximum for any other."""


LATEST_S = 1e9
"""Upper bound of recorded times, which are converted to calendar times."""


def _replay(options: argparse.Namespace) -> int:
    settings = load_config(options.config)
    blocks = _recording(str(options.file), settings)
    house = household(open_store(settings), 0.0)
    for problem in house.problems:
        print(f"whodrives: {problem}", file=sys.stderr)
    inputs = recorded_vehicle(options.vehicle, settings.vehicle.id) if options.vehicle else []
    for event in replay.replay(load_recognizer(settings), house, blocks, inputs):
        if line := json_line(event, settings.vehicle, evidence=settings.mqtt.evidence):
            print(line, flush=True)
    return 0


def _recording(name: str, settings: Config) -> Iterator[AudioBlock]:
    """The blocks of a file, or of raw PCM on standard input."""
    if name == schema.PIPE:
        sound = settings.sound
        if sys.stdin is None or sys.stdin.isatty():
            raise SourceError("nothing is piped in; give raw PCM, or the name of a file")
        stream = FileIO(sys.stdin.fileno(), closefd=False)
        return read_pipe(stream, sound.rate_hz, sound.channels)
    path = Path(name)
    taken = taken_channel(path, settings)
    if taken.of > 1:
        print(f"whodrives: {path}: {taken}", file=sys.stderr)
    return read_file(path, channel=taken.channel)


def json_line(event: Event, vehicle: schema.Vehicle, *, evidence: bool = False) -> str | None:
    """An event as a JSON line with its MQTT message; None if it has none."""
    message = encode.encode(event, vehicle, 0.0, evidence=evidence)
    if message is None:
        return None
    payload = json.loads(message.payload) if message.payload else None
    line = {"at_s": round(event.at_s, 3), "topic": message.topic, "payload": payload}
    return json.dumps(line, ensure_ascii=False)


def recorded_vehicle(path: Path, vehicle: str) -> list[Input]:
    """A recorded car's reports from JSON lines; each line is valid until the next.

    A line is repeated every HOLD_S; the last one is valid for LONGEST_S.

    Raises:
        PayloadError: a line is invalid; the text names it.
    """
    texts = read_text(path, PayloadError).splitlines()
    lines = [_vehicle_line(path, number, text) for number, text in enumerate(texts, 1)]
    ends = [at_s for at_s, _ in lines[1:]] + [lines[-1][0] + LONGEST_S] if lines else []
    decoder = decode.Decoder(vehicle)
    inputs: list[Input] = []
    signals: dict[str, object] = {}
    for number, ((at_s, changes), end_s) in enumerate(zip(lines, ends, strict=True), 1):
        if not 0.0 <= end_s - at_s <= LONGEST_S:
            said = f"the next line is {end_s - at_s:.1f} s later; give 0 to {LONGEST_S:.0f} s"
            raise PayloadError(f"{path}:{number}: at_s: {said}")
        signals |= changes
        for repeat in range(math.ceil((end_s - at_s) / HOLD_S)):
            then_s = at_s + repeat * HOLD_S
            inputs.append(_vehicle_report(decoder, vehicle, signals, then_s, f"{path}:{number}"))
    return inputs


def _vehicle_line(path: Path, number: int, text: str) -> tuple[float, dict[str, object]]:
    try:
        line = json.loads(text)
        at_s = float(line["at_s"])
        if not 0.0 <= at_s < LATEST_S:
            said = f"at_s is not a number from 0 to {LATEST_S:.0f}"
            raise ValueError(said)  # noqa: TRY301 (reported like the others)
        return at_s, dict(line["signals"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise PayloadError(
            f'{path}:{number}: {error!r}; give {{"at_s": SECONDS, "signals": {{PATH: VALUE}}}}'
        ) from error


def _vehicle_report(
    decoder: decode.Decoder, vehicle: str, signals: Mapping[str, object], at_s: float, where: str
) -> VehicleReport:
    """A car's report of these signals, decoded as the daemon does."""
    time_of = {"time": datetime.fromtimestamp(at_s, UTC).isoformat()}
    body = {"schema": 1, "signals": {p: {"value": v} | time_of for p, v in signals.items()}}
    topic = f"{topics.root(vehicle)}/vehicle"
    try:
        report = decoder.decode(topic, json.dumps(body).encode(), at_s, at_s)
    except PayloadError as error:
        raise PayloadError(f"{where}: {error}") from error
    if not isinstance(report, VehicleReport):
        raise PayloadError(
            f"{where}: contains no signal of the vehicle; give signals of docs/mqtt.md"
        )
    return report


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "accept": _accept,
    "alike": _alike,
    "config": _config,
    "demo": _demo,
    "doctor": _doctor,
    "enrol": _enrol,
    "export": _export,
    "forget": _forget,
    "history": _history,
    "import": _import,
    "key": _key,
    "list": _list,
    "preferences": _preferences,
    "rename": _rename,
    "replay": _replay,
    "restore": _restore,
    "show": _show,
    "undo": _undo,
}
