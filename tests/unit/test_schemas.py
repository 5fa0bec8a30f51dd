"""That the simulated parties' checker sees what a real decoder would refuse."""

import pytest

from tools.schemas import SchemaError, check, checked

RESULT = {
    "schema": 1,
    "time": "2026-12-01T08:00:00.000Z",
    "request_id": "3f2b7c1e-5a64-4d0e-9c1b-0d2f4a6b8c0e",
    "status": "completed",
    "reason": "",
}


@pytest.mark.parametrize(
    "change",
    [
        {"status": "applied"},
        {"status": None},
        {"request_id": "1"},
        {"time": "yesterday"},
        {"time": "2026-12-01T08:00:00.000"},
        {"schema": 2},
    ],
    ids=str,
)
def test_an_answer_that_the_decoder_refuses_is_never_sent(change: dict[str, object]) -> None:
    """A status, an id, a time or a version that the published schema does not have."""
    checked("preferences/result", RESULT)
    with pytest.raises(SchemaError, match="preferences/result"):
        checked("preferences/result", RESULT | change)


def test_a_topic_without_a_schema_is_refused() -> None:
    """A misspelt topic is no free pass."""
    with pytest.raises(SchemaError, match="no schema"):
        checked("preferences/results", RESULT)


def test_one_signal_a_topic_and_a_cleared_topic_are_known() -> None:
    """Topics with a VSS path share a schema; an empty payload clears what the broker keeps."""
    checked("vehicle/Vehicle.Speed", {"schema": 1, "value": 0, "time": RESULT["time"]})
    check("driver", b"")
    with pytest.raises(SchemaError, match="not JSON"):
        check("driver", b"{")
