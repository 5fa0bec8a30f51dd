"""Enrolment at a terminal: consent, prompts, the live meter, the result.

Owns the texts and pictures of the enrolment, and the household's similarity as a table and a
picture. The `enrolment` package decides what is good enough.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from whodrives import clock
from whodrives.audio.blocks import AudioBlock, SourceHealth, SourceState
from whodrives.audio.files import channels_of, read_file
from whodrives.audio.microphone import Microphone
from whodrives.config.schema import Config
from whodrives.enrolment.checks import Findings, examined
from whodrives.enrolment.prompts import CONSENT, CONSENT_VERSION, ON_THE_ROAD, PARKED, SENTENCES
from whodrives.enrolment.recording import (
    ENOUGH_S,
    Enrolled,
    Enrolment,
    Progress,
    channel_of_person,
)
from whodrives.enrolment.similarity import SAME_PERSON_COSINE, matrix, similarities
from whodrives.enrolment.types import Problem
from whodrives.errors import BusyError, EnrolmentError, ProfileError, SourceError
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.mqtt.payloads import SCHEMA
from whodrives.service.channels import first_voices
from whodrives.service.control import Control, connect
from whodrives.service.wiring import load_policy
from whodrives.store.calendar import now
from whodrives.store.names import checked, checked_text
from whodrives.store.profiles import ProfileStore
from whodrives.store.record import Consent, StoredProfile
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Profile

T = TypeVar("T")


ROAD_S = 10.0
"""Useful speech recorded in addition on the road."""


LONGEST_S = 600.0
"""Maximum length of a recording; twenty useful seconds are enough."""


QUIET_DBFS, LOUD_DBFS = -45.0, -6.0
"""The level meter is green between these."""


_ADVICE = frozenset({"not_the_driver"})
"""Problems that are only warnings at the terminal, because a new microphone can cause them; an
enrolment from the head unit is refused for them."""


_ACCEPTABLE = frozenset({"alike", "same_person"})


_LONGEST_LINE = 4096


@dataclass(frozen=True, slots=True)
class EnrolOptions:
    """Options of an enrolment.

    Attributes:
        name: the driver's name; with `again`, or the id.
        files: recordings of this one person; none: the microphone.
        replace: whether to replace the voice of the driver of this name.
        again: whether to add to the voice of the driver of this name or id.
        road: whether to record again on the road.
        consent: the person who consented; None: ask.
        accept_alike: whether to keep a voice that is too similar to another's.
    """

    name: str
    files: Sequence[Path] = ()
    replace: bool = False
    again: bool = False
    road: bool = False
    consent: str | None = None
    accept_alike: bool = False


def enrol(
    wish: EnrolOptions, settings: Config, store: ProfileStore, console: Console
) -> StoredProfile:
    """Enrol somebody, from consent to the sealed file.

    Everything that can fail is checked before anybody is asked or speaks: the name, the consent,
    the store, the models, the recordings, the microphone. A daemon that runs has the microphone, so
    it then listens, and judges as for a head unit.

    Raises:
        ProfileError: nobody consented, the name is taken or invalid, or the store fails.
        BusyError: a daemon runs and cannot be asked to listen.
        ModelError: a model cannot be used.
        EnrolmentError: the recording is not good enough, or the voice too similar to another's.
        SourceError: there is no sound.
    """
    name = wish.name if wish.again else checked(wish.name)
    if wish.consent is not None and not wish.consent.strip():
        raise ProfileError(_NOBODY_AGREED)
    agreed = None if wish.consent is None else checked_text(wish.consent, "who agreed")
    household = store.load().profiles
    old = [stored for stored in household if stored.is_called(name)]
    store.rehearse(name, replace=wish.replace, again=wish.again)
    if wish.again and not old:
        raise ProfileError(f"{name}: the profile is not used; `whodrives drivers list` says why")
    control = None if wish.files else connect(settings)
    if control is not None:
        with contextlib.closing(control):
            if wish.road or wish.accept_alike:
                raise ProfileError(_ONLY_WITHOUT_DAEMON)
            consent = Consent(agreed or _agreed(console), now(), CONSENT_VERSION)
            driver = old[0].profile.id if old else None
            driver = _enrol_by_daemon(control, driver, console, again=wish.again)
            stored = store.agreed(driver, consent)
            return stored if old else store.rename(driver, name)
    models = Path(settings.models.directory)
    policy = load_policy(settings)
    enrolment = Enrolment(load_vad(models), load_encoder(models, settings.models.encoders))
    channels = [_channel(path, settings, console) for path in wish.files]
    if not wish.files:
        with contextlib.closing(_microphone(settings.sound.device)) as blocks:
            next(blocks)
    consent = Consent(agreed or _agreed(console), now(), CONSENT_VERSION)
    if wish.files:
        enrolled = enrol_files(enrolment, wish.files, channels)
    else:
        enrolled = _enrol_live(enrolment, settings.sound.device, console, road=wish.road)
    driver = old[0].profile.id if old else None
    profiles = [stored.profile for stored in household]
    found = examined(enrolled, driver, profiles, policy, again=wish.again)
    _judge(found, household, console, accept_alike=wish.accept_alike)
    voice = enrolled.embeddings, enrolled.speech_s
    if wish.again:
        return store.adopt(driver, *voice, consent, again=True)
    return store.save(
        name,
        *voice,
        consent=consent,
        replace=wish.replace,
    )


def ask(prompt: str, read: Callable[[str], T], console: Console, *, unanswered: str) -> T:
    """Ask at the terminal, or read a piped line; returns `read` of the answer.

    At a terminal, an invalid answer is reported and the question repeated.

    Raises:
        ProfileError: the piped line is invalid; or, with the text `unanswered`, there is no answer.
    """
    while True:
        console.print(Text(prompt), end="")
        line = sys.stdin.readline(_LONGEST_LINE) if sys.stdin else ""
        if not line:
            console.print()
            raise ProfileError(unanswered)
        try:
            return read(line.rstrip("\r\n"))
        except ProfileError as error:
            if not sys.stdin.isatty():
                console.print()
                raise
            console.print(Text(f"{error}"))


def _agreed(console: Console) -> str:
    """Show the consent text; return the name of the person who consents."""
    console.print(Text(CONSENT[CONSENT_VERSION]), soft_wrap=False)
    prompt = "If you agree, type the name of the person whose voice it is (nothing: no): "
    answered = ask(
        prompt,
        lambda line: checked_text(line, "who agreed") if line.strip() else "",
        console,
        unanswered=_NOBODY_AGREED,
    )
    if not answered:
        raise ProfileError(_NOBODY_AGREED)
    return answered


_NOBODY_AGREED = (
    "nobody agreed, so nobody is enrolled; let the person answer the question on the terminal, or "
    "give --consent NAME once they have agreed"
)


def _channel(path: Path, settings: Config, console: Console) -> int:
    """The channel in which the person speaks; prints it if there are several.

    Raises:
        SourceError: the recording cannot be used.
        EnrolmentError: two people speak in two channels.
    """
    channels = channels_of(path, longest_s=LONGEST_S)
    if len(channels) == 1:
        read_file(path, longest_s=LONGEST_S)
        return channels[0]
    voices = first_voices(path, channels, settings, longest_s=LONGEST_S)
    try:
        chosen = channel_of_person(voices) if voices else channels[0]
    except EnrolmentError as error:
        alone = f"ffmpeg -i {shlex.quote(str(path))} -af 'pan=mono|c0=c0' alone.wav"
        raise EnrolmentError(
            f"{path}: {error}; give a file with one channel; for the first one run: {alone} "
            "(c1 is the second)"
        ) from error
    console.print(Text(f"{path}: channel {chosen + 1} of {len(channels)} is used."))
    return chosen


def enrol_files(
    enrolment: Enrolment, files: Sequence[Path], channels: Sequence[int] | None = None
) -> Enrolled:
    """Enrol one person from recordings.

    Args:
        enrolment: a new one.
        files: the recordings.
        channels: the channel of each, from 0; None: the loudest.

    Raises:
        SourceError: a file cannot be used.
        EnrolmentError: the recordings together are not good enough; names the files.
    """
    end_s = 0.0
    chosen: Sequence[int | None] = channels or [None] * len(files)
    for path, channel in zip(files, chosen, strict=True):
        start_s = end_s
        for block in read_file(path, channel=channel, longest_s=LONGEST_S):
            end_s = start_s + block.at_s
            enrolment.step(replace(block, at_s=end_s))
        enrolment.pause(end_s)
    try:
        return enrolment.finish(end_s)
    except EnrolmentError as error:
        raise EnrolmentError(f"{', '.join(map(str, files))}:\n{error}") from error


def _enrol_live(
    enrolment: Enrolment, device: str | int | None, console: Console, *, road: bool
) -> Enrolled:
    """Enrol from the microphone; Ctrl-C ends the recording early."""
    _speak(console)
    at_s = _heard(enrolment, device, console, 0.0, ENOUGH_S)
    if road:
        enrolment.pause(at_s)
        enrolment.allow_road_noise()
        console.print(Text(ON_THE_ROAD))
        console.print("Press Enter when the car drives. ", end="")
        if sys.stdin:
            sys.stdin.readline(_LONGEST_LINE)
        at_s = _heard(enrolment, device, console, at_s, enrolment.speech_s + ROAD_S)
    return enrolment.finish(at_s)


def _speak(console: Console) -> None:
    """Ask the person to speak."""
    console.print(Text(f"Speak freely until the recording stops. {PARKED}"))
    console.print(Text("If nothing comes to mind, read some of these, in any order:"))
    for sentences in SENTENCES.values():
        for sentence in sentences:
            console.print(Text(f"  {sentence}", "dim"))


def _heard(
    enrolment: Enrolment, device: str | int | None, console: Console, from_s: float, enough_s: float
) -> float:
    """Listen until `enough_s` useful seconds or Ctrl-C; returns the time of the last block."""
    at_s = from_s
    told: tuple[str, ...] = ()
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, transient=True) as live:
        start_s: float | None = None
        for block in _microphone(device):
            start_s = block.at_s if start_s is None else start_s
            at_s = from_s + block.at_s - start_s
            progress = enrolment.step(replace(block, at_s=at_s))
            live.update(meter(progress, enough_s))
            codes = tuple(problem.code for problem in progress.problems)
            if not console.is_terminal and codes != told:
                console.print(*(f"{p.code}: {p.text}" for p in progress.problems), sep="\n")
            told = codes
            if progress.enough and progress.speech_s >= enough_s:
                console.print("That is enough; thank you.")
                break
    return at_s


_ONLY_WITHOUT_DAEMON = (
    "--road and --accept-alike need the microphone to themselves, and the running daemon has it; "
    "stop it first, for example with: sudo systemctl stop whodrives"
)


def _enrol_by_daemon(control: Control, driver: str | None, console: Console, *, again: bool) -> str:
    """Let the running daemon listen; the id of the driver whose voice it stored.

    Ctrl-C cancels the enrolment.

    Raises:
        EnrolmentError: the recording is not good enough, or the daemon refuses to listen.
        BusyError: the daemon ended, or says nothing any more.
    """
    command = str(uuid.uuid4())
    consent = {"by": "terminal", "text": CONSENT_VERSION}
    _speak(console)
    wish = {"driver": driver, "again": again, "consent": consent}
    control.send("command/enrol", _command(command) | wish)
    try:
        with Live(console=console, transient=True) as live:
            return _followed(control, command, console, live)
    except KeyboardInterrupt:
        control.send("command/cancel", _command(None))
        raise


def _followed(control: Control, command: str, console: Console, live: Live) -> str:
    """Show an enrolment's progress until it ends; the driver's id."""
    told, reasons, driver = (), [], None
    for topic, payload in control.messages(_SILENT_S):
        if topic == "error":
            raise EnrolmentError(payload["reason"])
        if not payload or payload.get("command_id") != command:
            continue
        if topic == "enrolment":
            problems = payload["problems"]
            reasons = [f"{each['code']}: {each['text']}" for each in problems]
            live.update(_progress(payload["speech_s"], reasons))
            codes = tuple(each["code"] for each in problems)
            if not console.is_terminal and codes != told and payload["state"] == "listening":
                console.print(*map(Text, reasons), sep="\n")
            told, driver = codes, payload["driver"]
        elif topic == "command/result" and payload["status"] == "done" and driver:
            return str(driver)
        elif topic == "command/result":
            reason = "\n".join(reasons) or _REFUSED.get(payload["reason"], payload["reason"])
            raise EnrolmentError(reason)
    raise BusyError(f"the running daemon has said nothing for {_SILENT_S:.0f} s; look into its log")


_SILENT_S = 15.0
"""An enrolment reports once a second; a daemon that says nothing for so long is stuck."""


_REFUSED = {
    "busy": "somebody is being enrolled already; wait until that is over, or cancel it there",
    "no_sound": "the daemon has no microphone; `whodrives doctor` says why",
    "not_stored": "the daemon cannot store a voice; its log says why",
    "unknown_driver": "the daemon does not use this driver's profile; `whodrives doctor` says why",
    "driving": "the car moves; stop it first",
}
"""What a refusal of the daemon means, by its code."""


def _command(command: str | None) -> dict[str, object]:
    """The beginning of a command's payload."""
    return {"schema": SCHEMA, "command_id": command or str(uuid.uuid4()), "issued_at": now()}


def _progress(speech_s: float, problems: Sequence[str]) -> Group:
    """The live display while the daemon listens."""
    table = Table(box=None, show_header=False)
    done = ProgressBar(ENOUGH_S, min(speech_s, ENOUGH_S), width=40)
    table.add_row("useful", done, f"{speech_s:.0f} of {ENOUGH_S:.0f} s")
    return Group(table, *(Text(problem, "yellow") for problem in problems))


def _microphone(device: str | int | None) -> Generator[AudioBlock, None, None]:
    """The microphone's blocks; SourceError if it is lost or gives no sound."""
    inbox: SimpleQueue[AudioBlock | SourceState] = SimpleQueue()
    microphone = Microphone(device, inbox.put)
    microphone.open()
    try:
        while True:
            try:
                item = inbox.get(timeout=0.5)
            except Empty:
                if microphone.stalled(clock.now_s()):
                    raise SourceError(
                        "microphone: gives no sound; is it muted in the mixer?"
                    ) from None
                continue
            if isinstance(item, AudioBlock):
                microphone.taken()
                yield item
            elif item.health is SourceHealth.LOST:
                raise SourceError(f"microphone: {item.reason}; plug it in and start again")
    finally:
        microphone.close()


def meter(progress: Progress, enough_s: float = ENOUGH_S) -> Group:
    """The live display: level, useful seconds, problems."""
    level = max(0.0, min(60.0, progress.level_dbfs + 60.0))
    well = QUIET_DBFS < progress.level_dbfs < LOUD_DBFS
    style = "green" if well else "red" if progress.level_dbfs >= LOUD_DBFS else "yellow"
    table = Table(box=None, show_header=False)
    bar = ProgressBar(60.0, level, width=40, complete_style=style, finished_style=style)
    table.add_row("level", bar, f"{progress.level_dbfs:.0f} dBFS")
    speaking = Text("speaking" if progress.speaking else "", "green")
    done = ProgressBar(enough_s, min(progress.speech_s, enough_s), width=40)
    table.add_row("useful", done, f"{progress.speech_s:.0f} of {enough_s:.0f} s", speaking)
    return Group(table, *(_told(problem) for problem in progress.problems))


def _told(problem: Problem) -> Text:
    style = "bold red" if problem.blocking else "yellow"
    return Text.assemble((f"{problem.code}: ", style), problem.text)


def _judge(
    found: Findings, household: Sequence[StoredProfile], console: Console, *, accept_alike: bool
) -> None:
    """Print the voice's strength and problems; raise EnrolmentError if it must be refused."""
    check = found.check
    console.print(f"Known in {check.known_s:.0f} of {check.of_s:.0f} s of its own speech.")
    names = {stored.profile.id: stored.name for stored in household}
    refused = []
    for problem in found.problems:
        said = f"{problem.code}: {_named(problem.text, names)}"
        if problem.code in _ADVICE or (accept_alike and problem.code in _ACCEPTABLE):
            console.print(Text(said, "yellow"))
        else:
            fix = "; to keep it nevertheless, give --accept-alike"
            refused.append(said + (fix if problem.code in _ACCEPTABLE else ""))
    if refused:
        raise EnrolmentError("\n".join(refused))


def _named(text: str, names: Mapping[str, str]) -> str:
    for driver, name in names.items():
        text = text.replace(driver, f"{name} ({driver})")
    return text


def similarity_table(household: Sequence[StoredProfile], settings: Config) -> Table:
    """The similarity of the household's voices, and the pairs that are too similar."""
    policy = load_policy(settings)
    profiles = [stored.profile for stored in household]
    cosines = matrix(profiles, policy.calibration)
    table = Table("", *(escape(stored.name) for stored in household), "too similar", box=None)
    for row, stored in enumerate(household):
        numbers = [
            "-" if row == column else f"{cosines[row, column]:.2f}"
            for column in range(len(household))
        ]
        table.add_row(escape(stored.name), *numbers, _too_alike(stored, household, policy))
    return table


def _too_alike(stored: StoredProfile, household: Sequence[StoredProfile], policy: Policy) -> str:
    others: list[Profile] = [each.profile for each in household if each is not stored]
    names = {each.profile.id: each.name for each in household}
    found = similarities(stored.profile, others, policy)
    return escape(", ".join(names[each.driver] for each in found if each.is_too_similar)) or "-"


def similarity_picture(household: Sequence[StoredProfile], settings: Config, path: Path) -> None:
    """Draw the similarity matrix as PNG.

    Raises:
        ProfileError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (an extra that most do without)
    except ImportError as error:
        raise ProfileError(
            "a picture needs matplotlib; install it with: "
            f"{sys.executable} -m pip install matplotlib"
        ) from error
    names = [stored.name for stored in household]
    cosines = matrix([stored.profile for stored in household], load_policy(settings).calibration)
    figure = Figure(figsize=(1.5 + 0.9 * len(names), 1.2 + 0.8 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(cosines, vmin=-0.2, vmax=1.0, cmap="viridis")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row, line in enumerate(cosines):
        for column, cosine in enumerate(line):
            ink = "black" if cosine > 0.5 else "white"  # noqa: PLR2004 (the middle of the colours)
            axes.text(column, row, f"{cosine:.2f}", ha="center", va="center", color=ink)
    axes.set_title(f"Similarity of the voices (from {SAME_PERSON_COSINE}: one person)")
    figure.colorbar(image)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise ProfileError(f"cannot write {path}: {error.strerror}") from error
