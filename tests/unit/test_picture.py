"""What the demo's audience sees, and how its summary is counted."""

from typing import Any

import pytest
from rich.console import Console

from whodrives.cli.demo_screen import (
    Car,
    Heard,
    Now,
    Request,
    Sentence,
    Story,
    evidence_bar,
    marks,
    picture,
    seat_drawing,
    summary,
)
from whodrives.config.schema import Config
from whodrives.voice.types import Outcome

SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide."
LIMITS = Config().vehicle.signals
SENTENCES = (
    Sentence(1.0, 4.0, "Asha", "driver", "चलो"),
    Sentence(6.0, 9.0, "guest", "stranger", "Let us go."),
)


def heard(at_s: float, name: str | None) -> Heard:
    """Somebody was heard: known by name, or unknown."""
    payload: dict[str, Any] = {"speech_s": 1.0, "snr_db": None, "llr": 5.0}
    return Heard(at_s, Outcome.KNOWN if name else Outcome.UNKNOWN, name, payload)


def story(*voices: Heard, requests: tuple[Request, ...] = ()) -> Story:
    """A story in which this was heard and asked for."""
    told = Story(SENTENCES, frozenset({SEAT + "Position"}))
    told.heard += voices
    told.requests += requests
    return told


def wrong(told: Story) -> list[str]:
    """What the summary marks as wrong."""
    return [mark.what for mark in marks(told, ["Asha"], ["Asha"]) if not mark.right]


def test_a_right_story_is_all_right() -> None:
    """The driver known, the guest unknown, one request while standing."""
    told = story(heard(2.0, "Asha"), heard(9.5, None), requests=(Request(2.0, "Asha", 0.0),))
    assert wrong(told) == []


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (story(heard(9.5, None), requests=(Request(2.0, "Asha", 0.0),)), "Asha"),
        (
            story(heard(2.0, "Asha"), heard(8.0, "Asha"), requests=(Request(2.0, "Asha", 0.0),)),
            "guest",
        ),
        (story(heard(2.0, "Asha"), heard(9.5, None)), "seat requests"),
        (
            story(heard(2.0, "Asha"), heard(9.5, None), requests=(Request(2.0, "Asha", 30.0),)),
            "requests while moving",
        ),
    ],
    ids=["missed driver", "stranger taken for a driver", "no request", "moving"],
)
def test_each_fault_is_marked_and_nothing_else(told: Story, fault: str) -> None:
    """The summary can fail, and says what failed."""
    (found,) = wrong(told)
    assert fault in found


def test_evidence_points_left_for_strangers_and_right_for_drivers() -> None:
    """The bar's side is the sign of the log-likelihood ratio, its length the size."""
    left, right = evidence_bar(-6.0).plain, evidence_bar(6.0).plain
    assert left.index("█") < left.index("│") < right.index("█")
    assert evidence_bar(60.0).plain.count("█") > evidence_bar(3.0).plain.count("█")


@pytest.mark.parametrize("position", [0, 125, 250])
@pytest.mark.parametrize("recline", [0, 50])
def test_the_seat_stays_in_its_frame(position: float, recline: float) -> None:
    """At every end of its rail the drawing keeps its size."""
    drawn = seat_drawing({SEAT + "Position": position, SEAT + "Backrest.Recline": recline}, LIMITS)
    assert {len(line) for line in drawn} == {30}
    assert len(drawn) == 7


def test_picture_and_summary_can_be_drawn() -> None:
    """Every part is there, in a story that has begun."""
    told = story(heard(2.0, "Asha"))
    told.position[SEAT + "Position"] = 120.0
    signals = {
        "Vehicle.Speed": 30.0,
        "Vehicle.Powertrain.Transmission.SelectedGear": 1,
        "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": False,
    }
    console = Console(width=132, height=40)
    with console.capture() as shown:
        console.print(picture(told, Now(2.0, 66.0, Car("they drive", signals), LIMITS)))
        console.print(summary(marks(told, ["Asha"], ["Asha"])))
    for words in ("0:02 of 1:06", "30 km/h", "Asha", "चलो", "Position", "What was right"):
        assert words in shown.get()
