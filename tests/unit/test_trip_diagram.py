from tools.trip_diagram import PAGE, page
from whodrives.trip.table import TABLE, Action


def test_the_page_shows_the_table_that_is_obeyed() -> None:
    """docs/trip.md is what the code generates; `tools/trip_diagram.py` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_row_is_on_the_page_and_every_change_in_the_diagram() -> None:
    """One table line for each row; an arrow for each change of state."""
    text = page()
    assert text.count("\n| ") == len(TABLE) + 1
    changes = sum(len(row.states) for row in TABLE if row.to is not None)
    stays = sum(
        len(row.states)
        for row in TABLE
        if row.to is None
        and row.action not in (Action.NOTHING, Action.REFUSE, Action.CANCEL, Action.ERASE)
    )
    assert text.count(" --> ") == 1 + changes + stays
