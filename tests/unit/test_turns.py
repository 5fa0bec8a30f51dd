"""The daemon's pure parts; the rest is in tests/integration/test_service.py."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whodrives.domain import (
    BLOCK_SAMPLES,
    AudioBlock,
    LinkState,
    SourceHealth,
    SourceState,
    VehicleReport,
    VehicleState,
)
from whodrives.service import news_first

SOUND = np.zeros(BLOCK_SAMPLES, np.float32)

items = st.lists(
    st.builds(
        lambda kind, at_s: {
            "sound": AudioBlock(at_s, SOUND),
            "lost": SourceState(at_s, SourceHealth.LOST, "gone"),
            "car": VehicleReport(at_s, VehicleState()),
            "broker": LinkState(at_s, connected=True),
        }[kind],
        st.sampled_from(["sound", "lost", "car", "broker"]),
        st.floats(0, 10),
    )
)


@given(items)
def test_no_decision_rests_on_an_older_car_than_is_known(
    gathered: list[AudioBlock | SourceState | VehicleReport | LinkState],
) -> None:
    """News goes before sound; neither changes its own order, and nothing is lost."""
    ordered = news_first(gathered)
    news = [item for item in gathered if isinstance(item, VehicleReport | LinkState)]
    sound = [item for item in gathered if not isinstance(item, VehicleReport | LinkState)]
    assert [id(item) for item in ordered] == [id(item) for item in [*news, *sound]]
