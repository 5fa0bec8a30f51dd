"""How often one thing is logged."""

from hypothesis import given
from hypothesis import strategies as st

from whodrives.loglimit import OTHER, LogLimit


def test_what_repeats_is_told_once_and_then_counted() -> None:
    """The first line is written; the end of its window says how many were not."""
    limit = LogLimit(burst=1)
    assert [limit.admits("vehicle (json)", at_s) for at_s in (0.0, 0.1, 59.0)] == [
        True,
        False,
        False,
    ]
    assert limit.over(59.9) == []
    assert limit.over(60.0) == [("vehicle (json)", 2)]
    assert limit.admits("vehicle (json)", 60.0)


def test_nothing_is_said_of_a_window_that_suppressed_nothing() -> None:
    """One line is one line."""
    limit = LogLimit(burst=2)
    assert limit.admits("a", 0.0)
    assert limit.admits("a", 1.0)
    assert limit.over() == []


def test_more_keys_than_are_counted_apart_share_one() -> None:
    """Whoever invents keys gets no line for each."""
    limit = LogLimit(burst=1, most_keys=3)
    assert sum(limit.admits(f"key {n}", 0.0) for n in range(1000)) == 4
    assert limit.over() == [(OTHER, 996)]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 600)), max_size=200))
def test_every_line_is_written_or_counted(lines: list[tuple[str, float]]) -> None:
    """Whatever comes when, no line gets lost between the two."""
    limit, told, counted = LogLimit(burst=2, most_keys=4), 0, 0
    for key, at_s in sorted(lines, key=lambda line: line[1]):
        counted += sum(count for _, count in limit.over(at_s))
        told += limit.admits(key, at_s)
    counted += sum(count for _, count in limit.over())
    assert told + counted == len(lines)
