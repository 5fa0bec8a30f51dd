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
from whodrives.service import news_first

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
