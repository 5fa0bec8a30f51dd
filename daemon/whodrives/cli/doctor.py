"""Checks of an installation: what is wrong and how to fix it, one finding after another.

Owns the checks, in order of importance. Changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
from rich.console import Console
from rich.text import Text

from whodrives import clock
from whodrives.adaptation import following
from whodrives.audio.blocks import BLOCK_S, AudioBlock, Floats, SourceState
from whodrives.audio.files import read_file
from whodrives.audio.level import level
from whodrives.audio.microphone import Device, Microphone, devices
from whodrives.audio.offset import SILENCE, is_silent
from whodrives.config.schema import MICROPHONE, PIPE, Config
from whodrives.errors import BusyError, PayloadError, SourceError, WhodrivesError
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.mqtt.decode import Decoder
from whodrives.mqtt.probe import Overheard, lets_in_strangers, overhear, probe
from whodrives.service.channels import taken_channel
from whodrives.service.claim import ask
from whodrives.service.control import connect
from whodrives.service.wiring import load_policy, open_store
from whodrives.store.calendar import clock_problem
from whodrives.store.profiles import missed, unused
from whodrives.trip.interlock import MAX_AGE_S
from whodrives.trip.reports import asleep, missing, span, wrong_clock
from whodrives.vehicle.state import VehicleReport, VehicleState
from whodrives.vehicle.vss import SEAT_SWITCHES
from whodrives.voice.acoustics import Quality
from whodrives.voice.decision import LEAST_SPEECH_S, WIDE_BAND_FIX, is_telephone
from whodrives.voice.segments import Segmenter, segmented
from whodrives.voice.types import Segment

LISTEN_S = 3.0


BROKER_S = 4.0


CAR_S = 3.0
"""How long to listen for the car's reports, which are due every second."""


STRANGER_S = 1.0


MQTT_PORTS = (1883, 8883)


SETTLE_S = 1.2
"""Sound before this is not measured, because removing a constant offset takes a second."""


FILE_BLOCKS = 1000


QUIET_DBFS = -75.0


CLIPPING_DBFS = -0.2


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, whether it is well, and what was found (with the fix if it is not)."""

    what: str
    well: bool
    found: str


def examine(config: Config, console: Console, spelled: Callable[[str], str]) -> bool:
    """Print every finding; returns whether all is well.

    Args:
        config: of the installation that is examined.
        console: where to print.
        spelled: adds this configuration to the commands in a text.
    """
    well = True
    for finding in findings(config):
        sign = Text("✓", "bold green") if finding.well else Text("✗", "bold red")
        said = (sign, Text(f"{finding.what}:", "bold"), Text(spelled(finding.found)))
        console.print(*said, soft_wrap=True)
        well = well and finding.well
    console.print("All is well." if well else "Fix what is marked ✗, from the top.")
    return well


def findings(config: Config) -> Iterator[Finding]:
    """Run one check after another."""
    yield from _checked("models", lambda: _models(config))
    yield from _checked("clock", _clock)
    yield from _checked("profiles", lambda: _profiles(config))
    yield from _permissions(Path(config.profiles.directory), Path(config.profiles.key_file))
    yield from _daemon(config)
    yield from _checked("sound", lambda: _sound(config))
    yield from _checked("broker", lambda: _broker(config))


def _checked(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check, including the error that ends it."""
    try:
        yield from check()
    except WhodrivesError as error:
        yield Finding(what, well=False, found=str(error))


def _models(config: Config) -> Iterator[Finding]:
    models = Path(config.models.directory)
    count = config.models.encoders
    encoder = load_encoder(models, count)
    load_vad(models)
    load_calibration(models, count)
    encoders = "one encoder" if count == 1 else "two encoders"
    found = (
        f"{models}: manifests and models are this package's, {encoders}, {encoder.fingerprint[:12]}"
    )
    yield Finding("models", well=True, found=found)


def _clock() -> Iterator[Finding]:
    problem = clock_problem()
    yield Finding("clock", well=problem is None, found=problem or "is plausible")


def _profiles(config: Config) -> Iterator[Finding]:
    loaded = open_store(config).load()
    for problem in loaded.problems:
        yield Finding("profiles", well=False, found=problem)
    if not loaded.profiles:
        found = f"nobody is enrolled in {config.profiles.directory}; start with: whodrives enrol"
        yield Finding("profiles", well=False, found=found)
    for stored in loaded.profiles:
        without = "" if stored.profile.preferences else "; no preferences yet, so nothing will move"
        found = f"{stored.profile.id}, {stored.profile.speech_s:.0f} s of speech{without}"
        yield Finding("profiles", well=bool(stored.profile.preferences), found=found)
    for found in missed(loaded.profiles):
        yield Finding("profiles", well=False, found=found)
    calibration = load_policy(config).calibration
    for stored in loaded.profiles:
        profile = stored.profile
        if following.dimension(profile, calibration) < calibration.dimension:
            found = (
                f"{profile.id} was enrolled with one encoder, so one compares this household, and "
                "recognises fewer drivers; the trips of three days add the second, or at once: "
                f"whodrives enrol {profile.id} --again"
            )
            yield Finding("profiles", well=False, found=found)
    for stored, days in unused(loaded.profiles, config.profiles.retention_days):
        found = (
            f"{stored.profile.id} was not recognised for {days} days; if that driver has left for "
            f"good: whodrives drivers forget {stored.profile.id}"
        )
        yield Finding("profiles", well=False, found=found)


def _permissions(directory: Path, key_file: Path) -> Iterator[Finding]:
    """Files that others may read, or that belong to different users, as after sudo."""
    sealed = [*directory.glob("*.profile"), *directory.glob("*.sealed")]
    files = [directory, *sorted(sealed), key_file]
    there = {path: path.stat() for path in files if os.access(path, os.F_OK)}
    open_to_others = [path for path, status in there.items() if status.st_mode & 0o077]
    if open_to_others:
        paths = shlex.join(map(str, open_to_others))
        fix = f"run: chmod go= {paths}"
        yield Finding("permissions", well=False, found=f"others may read or write; {fix}")
    owners = sorted({status.st_uid for status in there.values()})
    if len(owners) > 1:
        said = f"profiles and key belong to different users ({', '.join(map(str, owners))})"
        typed = shlex.join(["chown", "-R", "USER", str(directory), str(key_file)])
        fix = f"run: {typed}, with the USER that runs whodrives"
        yield Finding("permissions", well=False, found=f"{said}; {fix}")
    if there and not open_to_others and len(owners) == 1:
        found = "only their owner can read profiles and key"
        yield Finding("permissions", well=True, found=found)


def _daemon(config: Config) -> Iterator[Finding]:
    """The problems that the running daemon reports, another daemon included."""
    who, reasons = ask(config)
    if not who:
        return
    for reason in reasons:
        yield Finding("daemon", well=False, found=f"{who}: {reason}")
    with contextlib.ExitStack() as stack:
        try:
            if (control := connect(config)) is not None:
                stack.enter_context(contextlib.closing(control))
        except BusyError as error:
            yield Finding("daemon", well=False, found=f"{error}")
            return
    serves = "" if reasons else "serves this car, and "
    found = f"{who} {serves}can be asked to enrol at this terminal"
    yield Finding("daemon", well=True, found=found)


def _sound(config: Config) -> Iterator[Finding]:
    source = config.sound.source
    if source == PIPE:
        yield Finding("sound", well=True, found="a pipe on standard input, not checked")
    elif source == MICROPHONE:
        yield from _microphone(config.sound.device, Path(config.models.directory))
    else:
        yield from _file(Path(source), config)


def _file(path: Path, config: Config) -> Iterator[Finding]:
    """The start of a file: whether it can be read, holds more than silence, and which channel."""
    taken = taken_channel(path, config)
    blocks = read_file(path, channel=taken.channel)
    start = list(islice(blocks, FILE_BLOCKS))
    if is_silent(_joined(start)):
        found = f"{path}: only silence in its first {len(start) * BLOCK_S:.0f} s"
        yield Finding("sound", well=False, found=f"{found}; record it again")
    elif _is_narrow(start, Path(config.models.directory)):
        found = f"{path}: its speech is of telephone band, in which nobody is recognised"
        yield Finding("sound", well=False, found=f"{found}; record it at 16 kHz or more")
    else:
        which = f"; {taken}" if taken.of > 1 else ""
        yield Finding("sound", well=True, found=f"{path} can be read{which}")


def _joined(blocks: Sequence[AudioBlock]) -> Floats:
    return np.concatenate([block.samples for block in blocks])


def _is_narrow(sound: Sequence[AudioBlock], models: Path) -> bool | None:
    """Whether the speech in a sound is of telephone band; None: too little speech to tell."""
    quality, speech_s = Quality(), 0.0
    for piece in segmented(sound, load_vad(models), Segmenter()):
        if isinstance(piece, Segment):
            quality.add(piece.samples)
            speech_s += piece.new_s
    return is_telephone(quality.sound()) if speech_s >= LEAST_SPEECH_S else None


def _microphone(device: str | int | None, models: Path) -> Iterator[Finding]:
    found = devices()
    yield Finding("microphones", well=bool(found), found=_listed(found))
    if not found:
        return
    blocks = _listen(device)
    heard = _joined(blocks)
    measured = level(heard)
    said = f"level {measured.rms_dbfs:.0f} dBFS, peak {measured.peak_dbfs:.0f} dBFS"
    if is_silent(heard):
        yield Finding("level", well=False, found=f"{said}: {SILENCE}")
    elif measured.peak_dbfs < QUIET_DBFS:
        yield Finding(
            "level", well=False, found=f"{said}: nearly silent; unmute it or raise the gain"
        )
    elif measured.peak_dbfs > CLIPPING_DBFS:
        yield Finding("level", well=False, found=f"{said}: clipping; lower the gain")
    else:
        yield Finding("level", well=True, found=said)
        yield from _band(blocks, models)


def _band(heard: Sequence[AudioBlock], models: Path) -> Iterator[Finding]:
    """Whether the microphone gives wide band, which only speech shows."""
    narrow = _is_narrow(heard, models)
    if narrow is None:
        found = f"nobody spoke for {LEAST_SPEECH_S} s; speak meanwhile to have the band checked"
        yield Finding("band", well=True, found=found)
    elif narrow:
        said = "your speech came in telephone band, in which nobody is recognised"
        yield Finding("band", well=False, found=f"{said}; {WIDE_BAND_FIX}")
    else:
        yield Finding("band", well=True, found="wide band")


def _listed(found: list[Device]) -> str:
    if not found:
        return f"none; plug one in, and check that this user ({os.getuid()}) is in the group audio"
    return "; ".join(
        f"{d.index}: {d.name} ({d.host_api}){', the default' if d.default else ''}" for d in found
    )


def _listen(device: str | int | None) -> Sequence[AudioBlock]:
    """LISTEN_S of sound after SETTLE_S; SourceError if there is none."""
    inbox: SimpleQueue[AudioBlock | SourceState] = SimpleQueue()
    microphone = Microphone(device, inbox.put)
    microphone.open()
    blocks, until_s = [], clock.now_s() + SETTLE_S + LISTEN_S
    try:
        while clock.now_s() < until_s:
            try:
                item = inbox.get(timeout=0.1)
            except Empty:
                continue
            if isinstance(item, AudioBlock):
                microphone.taken()
                blocks.append(item)
    finally:
        microphone.close()
    if not blocks:
        raise SourceError("microphone: opens but gives no sound; does another program use it?")
    return blocks[-int(LISTEN_S / BLOCK_S) :]


def _broker(config: Config) -> Iterator[Finding]:
    host, port = config.mqtt.address
    where = f"{host}:{port}"
    refusal = probe(config.mqtt, BROKER_S)
    if refusal is None:
        yield Finding("broker", well=True, found=f"{where} accepts us")
    else:
        fix = "start it (sudo systemctl start mosquitto), or fix the section mqtt"
        yield Finding("broker", well=False, found=f"{where}: {refusal}; {fix}")
    yield from _strangers(config)
    if refusal is None:
        yield from _checked("car", lambda: _car(config))


def _strangers(config: Config) -> Iterator[Finding]:
    """Whether the broker accepts clients without certificate and password on any port."""
    host, port = config.mqtt.address
    if config.mqtt.tls is None and config.mqtt.username is None:
        if lets_in_strangers(host, port, STRANGER_S):
            said = (
                f"{host}:{port} accepts every program on this machine, which may request movements"
            )
            more = "docs/security.md describes a broker that authenticates clients"
            yield Finding("strangers", well=True, found=f"{said}; {more}")
        return
    ports = sorted({port, *MQTT_PORTS, *(_listening(port) if config.mqtt.is_loopback else ())})
    with ThreadPoolExecutor(len(ports)) as pool:
        answers = pool.map(lambda each: lets_in_strangers(host, each, STRANGER_S), ports)
        found = [each for each, let_in in zip(ports, answers, strict=True) if let_in]
    for each in found:
        said = f"{host}:{each} accepts anyone, without certificate or password"
        fix = (
            "remove that listener or its allow_anonymous from the broker's configuration "
            "(grep -r allow_anonymous /etc/mosquitto), and see docs/security.md"
        )
        yield Finding("strangers", well=False, found=f"{said}; {fix}")
    if not found:
        said = "nobody is accepted without certificate or password"
        yield Finding("strangers", well=True, found=f"{said} ({len(ports)} ports tried)")


def _listening(port: int) -> set[int]:
    """The TCP ports on which the user that listens on `port` listens, from /proc/net.

    A broker's listeners all belong to its user; ports of other users are not tried.
    """
    owners: dict[int, str] = {}
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for _, local, _, state, _, _, _, user, *_ in map(str.split, lines):
            if state == "0A":
                owners[int(local.rpartition(":")[2], 16)] = user
    return {other for other, user in owners.items() if user == owners.get(port)}


def _car(config: Config) -> Iterator[Finding]:
    """The age of each reported signal, and missing signals."""
    who, reasons = ask(config)
    if who and config.mqtt.tls is not None and config.mqtt.tls.certificate is not None:
        # A broker that names clients by their certificates would end the daemon's connection.
        if not any(reason.startswith("vehicle:") for reason in reasons):
            yield Finding("car", well=True, found=f"{who} hears its reports")
        return
    yield from _overheard(config)


def _overheard(config: Config) -> Iterator[Finding]:
    """What the car's reports say to whoever listens for CAR_S."""
    decoder = Decoder(config.vehicle.id)
    heard, denied = overhear(config.mqtt, decoder.vehicle_topics, CAR_S)
    if denied:
        fix = "give our user the right to read it, in the broker's access list"
        yield Finding("car", well=False, found=f"may not read {', '.join(denied)}; {fix}")
    state, ages, mistakes = _reports(decoder, heard)
    for mistake in mistakes:
        yield Finding("car", well=False, found=mistake)
    now_s = clock.now_s()
    told = _told(decoder, now_s)
    lacking = missing(state, now_s)
    if not ages and asleep(state):
        yield Finding("car", well=True, found=f"sleeps, its ignition is off; last report: {told}")
    elif not ages and not mistakes:
        before = f", the last retained report: {told}" if told else ""
        fix = "switch the ignition on, and let the car's gateway send it (docs/mqtt.md)"
        found = f"nothing on {decoder.vehicle_topics[0]} within {CAR_S:.0f} s{before}; {fix}"
        yield Finding("car", well=False, found=found)
    elif ages and min(ages) > MAX_AGE_S:
        yield Finding("car", well=False, found=f"{wrong_clock(min(ages))} ({told})")
    elif ages and lacking and not asleep(state):
        said = f"the car's reports do not tell: {', '.join(lacking)} ({told})"
        yield Finding("car", well=False, found=f"{said}; see `vehicle` in docs/mqtt.md")
    elif ages and not mistakes:
        yield Finding("car", well=True, found=f"reports: {told}")


def _reports(
    decoder: Decoder, heard: tuple[Overheard, ...]
) -> tuple[VehicleState, list[float], list[str]]:
    """The car's state, the ages of the live reports, and the last mistake of each topic."""
    state, ages, mistakes = VehicleState(), [], dict[str, str]()
    for message in heard:
        try:
            report = decoder.decode(message.topic, message.payload, message.at_s, message.wall_s)
        except PayloadError as error:
            mistakes[message.topic] = str(error)
            continue
        if isinstance(report, VehicleReport):
            state = report.state
            if report.age_s is not None and not message.retained:
                ages.append(report.age_s)
    return state, ages, list(mistakes.values())


def _told(decoder: Decoder, now_s: float) -> str:
    """Each signal with its age; the seat's switches are combined."""
    readings = decoder.readings
    switches = [readings[path].at_s for path in SEAT_SWITCHES if path in readings]
    ages = {
        path.removeprefix("Vehicle."): (reading.at_s, " (null)" if reading.value is None else "")
        for path, reading in readings.items()
        if path not in SEAT_SWITCHES
    }
    if switches:
        ages[f"{len(switches)} switches of the seat"] = min(switches), ""
    return ", ".join(f"{name} {span(now_s - at_s)}{null}" for name, (at_s, null) in ages.items())
