import itertools
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.trip.interlock import MAX_AGE_S, RULES, fresh, refusals
from whodrives.vehicle.state import Reading, VehicleState
from whodrives.vehicle.vss import Group

NOW_S = 1000.0
SAFE = VehicleState(
    speed_kmh=Reading(0.0, NOW_S),
    in_park=Reading(value=True, at_s=NOW_S),
    parking_brake=Reading(value=True, at_s=NOW_S),
    door_open=Reading(value=False, at_s=NOW_S),
    seat_occupied=Reading(value=True, at_s=NOW_S),
    ignition_on=Reading(value=True, at_s=NOW_S),
    seat_switch=Reading(value=True, at_s=NOW_S),
    key=Reading("fob", NOW_S),
)

KNOWN = (True, False, None)


def _boolean(value: object) -> Reading[bool] | None:
    return Reading(value, NOW_S) if isinstance(value, bool) else None


def test_truth_table_of_every_known_and_unknown_combination() -> None:
    """Each of 4 speeds x 3^4 states permits exactly what the rule, written out here, permits."""
    speeds = (0.0, 0.1, 130.0, None)
    for speed, park, brake, door, occupied in itertools.product(speeds, *[KNOWN] * 4):
        state = VehicleState(
            speed_kmh=None if speed is None else Reading(speed, NOW_S),
            in_park=_boolean(park),
            parking_brake=_boolean(brake),
            door_open=_boolean(door),
            seat_occupied=_boolean(occupied),
        )
        held = park is True or brake is True
        mirrors = speed == 0 and held and occupied is True
        assert (refusals(Group.MIRRORS, state, NOW_S) == ()) is mirrors
        assert (refusals(Group.SEAT, state, NOW_S) == ()) is (mirrors and door is False)


@pytest.mark.parametrize(
    ("change", "seat", "mirrors"),
    [
        ({}, (), ()),
        ({"speed_kmh": Reading(3.0, NOW_S)}, ("standing",), ("standing",)),
        ({"in_park": _boolean(value=False)}, (), ()),
        ({"parking_brake": None}, (), ()),
        (
            {"in_park": _boolean(value=False), "parking_brake": _boolean(value=False)},
            ("park_or_brake",),
            ("park_or_brake",),
        ),
        ({"door_open": _boolean(value=True)}, ("door_closed",), ()),
        ({"door_open": None}, ("door_closed",), ()),
        ({"seat_occupied": _boolean(value=False)}, ("seat_occupied",), ("seat_occupied",)),
        ({"ignition_on": _boolean(value=False)}, (), ()),
        ({"ignition_on": None}, (), ()),
        ({"seat_switch": None}, (), ()),
        ({"key": None}, (), ()),
    ],
)
def test_the_unmet_condition_is_named(
    change: dict[str, Reading[float] | Reading[bool] | Reading[str] | None],
    seat: tuple[str, ...],
    mirrors: tuple[str, ...],
) -> None:
    """One change to a safe car refuses with the name of that condition alone."""
    state = replace(SAFE, **change)  # type: ignore[arg-type]  # a table of mixed readings
    assert refusals(Group.SEAT, state, NOW_S) == seat
    assert refusals(Group.MIRRORS, state, NOW_S) == mirrors


def test_nothing_known_refuses_everything() -> None:
    """A car that has said nothing gets every name of the rule, in the rule's order."""
    for group in Group:
        names = tuple(condition.name for condition in RULES[group])
        assert refusals(group, VehicleState(), NOW_S) == names


@pytest.mark.parametrize("speed", [math.nan, math.inf, -math.inf, -1.0, 1e-9])
def test_a_speed_that_is_not_zero_is_not_standing(speed: float) -> None:
    """NaN, infinities and the slightest creep refuse."""
    state = replace(SAFE, speed_kmh=Reading(speed, NOW_S))
    assert all("standing" in refusals(group, state, NOW_S) for group in Group)


@pytest.mark.parametrize("name", [f.name for f in fields(VehicleState) if f.name != "ignition_on"])
@pytest.mark.parametrize("at_s", [NOW_S - MAX_AGE_S - 0.001, NOW_S + 0.001, math.nan])
def test_stale_and_future_values_count_as_unknown(name: str, at_s: float) -> None:
    """A value that is older than 2 s, or from the future, refuses as a missing one does."""
    old = replace(SAFE, **{name: replace(getattr(SAFE, name), at_s=at_s)})
    missing = replace(SAFE, **{name: None})
    for group in Group:
        assert refusals(group, old, NOW_S) == refusals(group, missing, NOW_S)


def test_the_edges_of_freshness_belong_to_it() -> None:
    """Exactly 2 s old and made at this very moment still count."""
    for at_s in (NOW_S - MAX_AGE_S, NOW_S):
        assert fresh(Reading(7, at_s), NOW_S) == 7


times = st.floats(allow_nan=True, allow_infinity=True) | st.floats(NOW_S - 4, NOW_S + 2)


def _readings(values: st.SearchStrategy[float]) -> st.SearchStrategy[Reading[float] | None]:
    return st.none() | st.builds(Reading, values, times)


states = st.builds(
    VehicleState,
    _readings(st.floats() | st.just(0.0)),
    *[_readings(st.booleans())] * 6,
)


@given(states, times)
def test_total_and_permits_only_on_positive_fresh_knowledge(
    state: VehicleState, now_s: float
) -> None:
    """Any input has an answer, and permission means that each condition is freshly known."""
    for group in Group:
        names = refusals(group, state, now_s)
        assert set(names) <= {condition.name for condition in RULES[group]}
        if not names:
            assert fresh(state.speed_kmh, now_s) == 0
            assert True in (fresh(state.in_park, now_s), fresh(state.parking_brake, now_s))
            assert fresh(state.seat_occupied, now_s) is True
            assert group is Group.MIRRORS or fresh(state.door_open, now_s) is False


@given(states, times, st.sampled_from([f.name for f in fields(VehicleState)]))
def test_knowing_less_never_permits_more(state: VehicleState, now_s: float, name: str) -> None:
    """Taking any value away keeps every refusal there was."""
    less = replace(state, **{name: None})
    for group in Group:
        assert set(refusals(group, state, now_s)) <= set(refusals(group, less, now_s))
