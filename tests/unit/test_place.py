"""Who works when two daemons have one identity at a broker."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.mqtt.takeover import PROBATION_S, RETURN_S, STANDBY_FIRST_S, STANDBY_LAST_S, Place


def test_a_new_connection_waits_before_it_works() -> None:
    """Whoever works already would be back by then."""
    place = Place()
    assert not place.admits(10.0, 10.0)
    assert not place.admits(10.0, 10.0 + PROBATION_S - 0.01)
    assert place.admits(10.0, 10.0 + PROBATION_S)


def test_who_worked_comes_back_at_once_and_works_at_once() -> None:
    """The newcomer has said nothing yet, and will be thrown out by that."""
    place = Place()
    assert place.admits(0.0, PROBATION_S)
    assert place.lost(100.0) == 0.0
    assert place.admits(100.2, 100.2)


def test_who_is_thrown_out_before_it_worked_stands_by_longer_each_time() -> None:
    """Each attempt disturbs the one that works."""
    place = Place()
    pauses = []
    for number in range(8):
        assert not place.admits(100.0 * number, 100.0 * number)
        pauses.append(place.lost(100.0 * number + 0.3))
    assert pauses[:3] == [STANDBY_FIRST_S, 2 * STANDBY_FIRST_S, 4 * STANDBY_FIRST_S]
    assert pauses[-1] == STANDBY_LAST_S


def test_who_comes_back_late_waits_like_a_newcomer() -> None:
    """The other one may have gone to work meanwhile."""
    place = Place()
    assert place.admits(0.0, PROBATION_S)
    assert place.lost(100.0) == 0.0
    assert not place.admits(100.0 + RETURN_S + 0.1, 100.0 + RETURN_S + 0.1)


def test_who_is_thrown_out_again_right_after_its_return_stands_by() -> None:
    """Nobody fights for the place."""
    place = Place()
    assert place.admits(0.0, PROBATION_S)
    assert place.lost(100.0) == 0.0
    assert place.admits(100.2, 100.2)
    assert place.lost(100.5) == STANDBY_FIRST_S


def test_a_connection_that_just_ends_is_no_takeover() -> None:
    """The broker went away: it is tried again as ever, and waits again before it works."""
    place = Place()
    assert place.admits(0.0, PROBATION_S)
    assert place.lost(None) is None
    assert not place.admits(50.0, 50.0)


@pytest.mark.parametrize("connects_s", [0.0, 0.5, 2.0])
@given(
    lags=st.lists(st.floats(0.01, 5.0), min_size=40, max_size=40),
    apart_s=st.floats(0.0, 200.0),
)
def test_two_daemons_never_work_at_once_and_do_not_fight(
    connects_s: float, lags: list[float], apart_s: float
) -> None:
    """However late each notices and returns, there are few takeovers in five minutes."""
    places = (Place(), Place())
    due = [0.0, apart_s]
    working = [False, False]
    up_s = [math.inf, math.inf]
    holder: int | None = None
    takeovers, at_s, lag = 0, 0.0, iter(lags * 100)
    while at_s < 300.0:
        at_s += 0.05
        for one in (0, 1):
            other = 1 - one
            if due[one] <= at_s:
                due[one], up_s[one] = math.inf, at_s
                if holder == other:
                    takeovers += 1
                    # The broker says nothing for the one that is out from now on.
                    working[other] = False
                    pause_s = places[other].lost(at_s)
                    assert pause_s is not None
                    due[other] = at_s + pause_s + connects_s * next(lag)
                    up_s[other] = math.inf
                holder = one
            elif holder == one and not working[one]:
                working[one] = places[one].admits(up_s[one], at_s)
            elif due[one] < math.inf and places[one].missed(at_s):
                pause_s = places[one].lost(None)
                assert pause_s is not None
                due[one] = at_s + pause_s + connects_s * next(lag)
        assert sum(working) <= 1
    assert takeovers <= 14
