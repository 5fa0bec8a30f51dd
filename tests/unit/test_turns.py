"""The daemon's pure parts; the rest is in tests/integration/test_service.py."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whodrives.domain import (
    BLOCK_SAMPLES,
    Answer,
    AnswerStatus,
    AudioBlock,
    Cancel,
    Choose,
    Forget,
    Household,
    Input,
    LinkState,
    Listen,
    Position,
    Save,
    SourceHealth,
    SourceState,
    Tick,
    VehicleReport,
    VehicleState,
)
from whodrives.service import LATE_S, news_first, shed

SOUND = np.zeros(BLOCK_SAMPLES, np.float32)

NOT_NEWS = ("sound", "lost", "household", "time")
NEWS = (
    "car",
    "broker",
    "answer",
    "position",
    "listen",
    "choose",
    "cancel",
    "save",
    "forget",
)
KINDS = (*NOT_NEWS, *NEWS)

items = st.lists(
    st.builds(
        lambda kind, at_s: {
            "sound": AudioBlock(at_s, SOUND),
            "lost": SourceState(at_s, SourceHealth.LOST, "gone"),
            "car": VehicleReport(at_s, VehicleState()),
            "broker": LinkState(at_s, connected=True),
            "answer": Answer(at_s, "r", AnswerStatus.COMPLETED),
            "position": Position(at_s, at_s, moving=False, signals={}),
            "listen": Listen(at_s),
            "choose": Choose(at_s, "c", None),
            "cancel": Cancel(at_s, "c"),
            "save": Save(at_s, "c"),
            "forget": Forget(at_s, "c", "d-00000000"),
            "household": Household(at_s, ()),
            "time": Tick(at_s),
        }[kind],
        st.sampled_from(KINDS),
        st.floats(0, 10),
    )
)


@given(items)
def test_no_decision_rests_on_an_older_car_than_is_known(gathered: list[Input]) -> None:
    """What came over the bus goes before sound; neither changes its own order, nothing is lost."""
    ordered = news_first(gathered)
    others = (AudioBlock, SourceState, Household, Tick)
    news = [item for item in gathered if not isinstance(item, others)]
    rest = [item for item in gathered if isinstance(item, others)]
    assert [id(item) for item in ordered] == [id(item) for item in [*news, *rest]]


def block(at_s: float) -> AudioBlock:
    """A block of silence."""
    return AudioBlock(at_s, SOUND)


def test_sound_in_time_is_heard_whole() -> None:
    """Who keeps up hears every block, without a gap."""
    items: list[Input] = [block(1.0), Tick(1.01), block(1.03)]
    assert shed(items, 1.0 + LATE_S) == (items, 0)


def test_who_is_behind_gives_up_the_oldest_sound_and_no_news() -> None:
    """Of the sound only the last block is left, and says that it does not follow the one before."""
    items: list[Input] = [
        block(1.0),
        Cancel(1.01, "c1"),
        block(1.03),
        Tick(1.04),
        block(1.06),
        Tick(1.07),
    ]
    kept, dropped = shed(items, 1.0 + LATE_S + 0.1)
    assert dropped == 2
    assert [item for item in kept if not isinstance(item, AudioBlock)] == [
        items[1],
        items[3],
        items[5],
    ]
    (last,) = (item for item in kept if isinstance(item, AudioBlock))
    assert (last.at_s, last.gap) == (1.06, True)
