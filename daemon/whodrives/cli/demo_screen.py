"""The demo's display: drive, evidence, messages, seat, and the comparison with the truth.

Owns the record of the drive and its rendering with rich. Pure; must not know processes, brokers or
clocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from whodrives.vehicle import vss
from whodrives.voice.types import Outcome

LISTEN_AFTER_S = 2.5
"""Maximum time after a sentence's end at which a decision belongs to the sentence."""


PARK = 126
"""VSS's SelectedGear for Park."""


ROW_1 = f"{vss.SEAT}."


MIRRORS = "Vehicle.Body.Mirrors."


STYLES = {"driver": "bold green", "passenger": "cyan", "stranger": "yellow", "radio": "magenta"}


OUTCOME_STYLES = {
    Outcome.KNOWN: "bold green",
    Outcome.UNKNOWN: "yellow",
    Outcome.AMBIGUOUS: "magenta",
    Outcome.INSUFFICIENT_SPEECH: "dim",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A spoken sentence: time, true speaker, role, words."""

    start_s: float
    end_s: float
    who: str
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A `recognition` message, with its time in seconds into the drive."""

    at_s: float
    outcome: Outcome
    name: str | None
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A `preferences/apply` message: time, driver, and the speed at that time."""

    at_s: float
    name: str
    speed_kmh: float


@dataclass(slots=True)
class Story:
    """The record of the drive, for the display and the summary.

    `asked` contains the ids of the `requests`: a message with a known id is a repetition.
    """

    sentences: Sequence[Sentence]
    shown: frozenset[str]
    heard: list[Heard] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    messages: list[tuple[float, str, str]] = field(default_factory=list)
    position: dict[str, float] = field(default_factory=dict)
    target: dict[str, float] = field(default_factory=dict)
    driver: str = "nobody yet"

    def verdicts(self, sentence: Sentence) -> list[Heard]:
        """The recognitions during, or up to LISTEN_AFTER_S after, the sentence."""
        return [
            heard
            for heard in self.heard
            if sentence.start_s < heard.at_s <= sentence.end_s + LISTEN_AFTER_S
        ]


@dataclass(frozen=True, slots=True)
class Car:
    """The car's signals, VSS path to value, and a note for the display."""

    note: str
    signals: Mapping[str, Any]

    @property
    def speed_kmh(self) -> float:
        """Vehicle.Speed."""
        return float(self.signals["Vehicle.Speed"])

    @property
    def in_park(self) -> bool:
        """Whether the gear selector is in Park."""
        return bool(self.signals["Vehicle.Powertrain.Transmission.SelectedGear"] == PARK)

    @property
    def door_open(self) -> bool:
        """Whether the driver's door is open."""
        return bool(self.signals["Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"])


@dataclass(frozen=True, slots=True)
class Now:
    """The state to draw: seconds into the drive, its length, the car's signals."""

    at_s: float
    of_s: float
    car: Car
    limits: vss.Limits


def picture(story: Story, now: Now) -> RenderableType:
    """The whole screen."""
    layout = Layout()
    layout.split_column(
        Layout(_headline(story, now), size=4), Layout(name="middle"), Layout(_bus(story), size=12)
    )
    layout["middle"].split_row(Layout(_voices(story), ratio=3), Layout(_seat(story, now), ratio=2))
    return layout


def _headline(story: Story, now: Now) -> Panel:
    speed = now.car.speed_kmh
    gear = "in Park" if now.car.in_park else "driving"
    clock = f"{_minutes(now.at_s)} of {_minutes(now.of_s)}"
    line = Text.assemble(
        (f" {clock}  ", "bold"),
        (f"{speed:>3.0f} km/h, {gear}  ", "bold red" if speed else "bold green"),
        ("door open  " if now.car.door_open else "", "bold yellow"),
        (now.car.note, "italic"),
    )
    speaking = [s for s in story.sentences if s.start_s <= now.at_s < s.end_s]
    said = Text.assemble(*[part for s in speaking for part in _said(s)]) if speaking else Text("")
    return Panel(Group(line, said), title="whodrives", title_align="left", border_style="blue")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _said(sentence: Sentence) -> list[tuple[str, str]]:
    return [
        (f" {sentence.who}", STYLES[sentence.role]),
        (f" ({sentence.role}): ", "dim"),
        (f"“{sentence.text}” ", "italic"),
    ]


def _voices(story: Story) -> Panel:
    table = Table(box=None, expand=True, padding=(0, 1))
    for column in (
        "at",
        "in truth",
        "heard as",
        "evidence (llr)",
        "speech",
        "SNR",
    ):
        table.add_column(column, no_wrap=True)
    for heard in story.heard[-12:]:
        table.add_row(*_voice_row(story, heard))
    return Panel(table, title="who was heard", title_align="left")


def _voice_row(story: Story, heard: Heard) -> tuple[RenderableType, ...]:
    truth = next((s for s in story.sentences if heard in story.verdicts(s)), None)
    snr_db = heard.payload.get("snr_db")
    return (
        Text(f"{heard.at_s:5.1f} s", "dim"),
        Text(truth.who, STYLES[truth.role]) if truth else Text("-", "dim"),
        Text(heard.name or heard.outcome.value, OUTCOME_STYLES[heard.outcome]),
        evidence_bar(heard.payload.get("llr")),
        Text(f"{heard.payload['speech_s']:.1f} s"),
        Text("-" if snr_db is None else f"{snr_db:.0f} dB"),
    )


def evidence_bar(llr: float | None, width: int = 8) -> Text:
    """The log-likelihood ratio as a bar left (a stranger) or right (the driver) of zero."""
    if llr is None:
        return Text("nobody to compare with", "dim")
    cells = min(width, round(abs(llr) / 1.5))
    left = ("█" * cells if llr < 0 else "").rjust(width)
    right = ("█" * cells if llr >= 0 else "").ljust(width)
    return Text.assemble((left, "yellow"), "│", (right, "green"), f" {llr:+.1f}")


def _bus(story: Story) -> Panel:
    table = Table(box=None, expand=True, padding=(0, 1), show_header=False)
    table.add_column(no_wrap=True, width=8)
    table.add_column(no_wrap=True, width=19)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for at_s, topic, payload in story.messages[-9:]:
        style = "bold green" if topic.startswith("preferences") else ""
        table.add_row(Text(f"{at_s:5.1f} s", "dim"), Text(topic, style), Text(payload, "dim"))
    return Panel(table, title="on the bus (MQTT)", title_align="left")


def _seat(story: Story, now: Now) -> Panel:
    driver = Text.assemble(("driver of this trip: ", "dim"), (story.driver, "bold"))
    sliders = Table(box=None, expand=True, padding=(0, 1), show_header=False)
    for path in sorted(story.position, key=lambda path: (MIRRORS in path, path)):
        limits = now.limits.get(path) or vss.SIGNALS[path].range
        sliders.add_row(*_slider(path, story.position[path], story.target.get(path), limits))
    drawing = Text("\n".join(seat_drawing(story.position, now.limits)), "bold blue")
    return Panel(
        Group(driver, drawing, sliders), title="seat and mirrors (ECU)", title_align="left"
    )


def _slider(path: str, value: float, target: float | None, limits: vss.Range) -> tuple[Text, ...]:
    width = 16
    share = (value - limits.minimum) / (limits.maximum - limits.minimum)
    cell = min(width - 1, max(0, round(share * (width - 1))))
    moving = target is not None and round(target - value) != 0
    line = (
        Text("─" * cell, "dim")
        + Text("●", "bold green" if moving else "bold")
        + Text("─" * (width - 1 - cell), "dim")
    )
    name = (
        path.removeprefix(ROW_1).removeprefix(MIRRORS).replace("Backrest.", "").replace("Side", "")
    )
    return (
        Text(name, no_wrap=True),
        line,
        Text(f"{value:.0f} {_short(vss.SIGNALS[path].unit)}", justify="right", no_wrap=True),
    )


def _short(unit: str) -> str:
    return {"percent": "%", "degrees": "°"}.get(unit, unit)


def seat_drawing(position: Mapping[str, float], limits: vss.Limits) -> list[str]:
    """The seat from the side, 7 lines of 30 characters: slid along its rail, leaning back."""
    rows, columns = 7, 30
    grid = [[" "] * columns for _ in range(rows)]
    rail = limits.get(ROW_1 + "Position") or vss.Range(0, 250)
    slide = position.get(ROW_1 + "Position", rail.minimum) / max(rail.maximum, 1.0)
    lean = math.radians(position.get(ROW_1 + "Backrest.Recline", 0.0))
    height = limits.get(ROW_1 + "Height") or vss.Range(0, 80)
    lift = round(position.get(ROW_1 + "Height", 0.0) / max(height.maximum, 1.0))
    hip = 10 + round(slide * 8)
    floor = rows - 2 - lift
    for step in range(floor):
        # A character is about twice as high as it is wide.
        grid[floor - 1 - step][min(columns - 1, hip + round(2 * step * math.tan(lean)))] = "█"
    for offset in range(1, 7):
        grid[floor][hip + 1 - offset] = "▄"
    for row in range(floor + 1, rows - 1):
        grid[row][hip - 2] = "║"
    grid[rows - 1] = list("═" * columns)
    grid[rows - 1][min(columns - 1, max(0, hip - 2))] = "▲"
    return ["".join(row) for row in grid]


@dataclass(frozen=True, slots=True)
class Mark:
    """One expectation, what came, and whether that was right."""

    what: str
    expected: str
    came: str
    right: bool


def marks(story: Story, enrolled: Sequence[str], changes: Sequence[str]) -> list[Mark]:
    """Compare the record with the truth.

    Args:
        story: what happened.
        enrolled: names of the enrolled drivers.
        changes: the names of the drivers of the trips, in order: one request each.
    """
    found = [_voice_mark(story, sentence, enrolled) for sentence in story.sentences]
    asked = [request.name for request in story.requests]
    found.append(
        Mark(
            "seat requests", ", ".join(changes), ", ".join(asked) or "none", asked == list(changes)
        )
    )
    moving = sum(request.speed_kmh != 0 for request in story.requests)
    found.append(Mark("requests while moving", "0", str(moving), moving == 0))
    return found


def _voice_mark(story: Story, sentence: Sentence, enrolled: Sequence[str]) -> Mark:
    names = [heard.name for heard in story.verdicts(sentence) if heard.name]
    outcomes = [heard.name or heard.outcome.value for heard in story.verdicts(sentence)]
    known = sentence.who in enrolled
    right = set(names) == {sentence.who} if known else not names
    what = f"{sentence.start_s:4.0f} s  {sentence.who} ({sentence.role}): “{sentence.text}”"
    came = ", ".join(dict.fromkeys(outcomes)) or "nothing"
    return Mark(what, sentence.who if known else "nobody we know", came, right)


def summary(found: Sequence[Mark]) -> RenderableType:
    """A table of the marks, and a line that counts them."""
    table = Table(title="What was right", title_justify="left", box=None, padding=(0, 1))
    for column in ("", "what happened in truth", "expected", "came"):
        table.add_column(column)
    for mark in found:
        sign = Text("✓", "bold green") if mark.right else Text("✗", "bold red")
        table.add_row(sign, mark.what, mark.expected, Text(mark.came, "" if mark.right else "red"))
    right = sum(mark.right for mark in found)
    style = "bold green" if right == len(found) else "bold red"
    return Group(table, Text(f"{right} of {len(found)} right.", style))
