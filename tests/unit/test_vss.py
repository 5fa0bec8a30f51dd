import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.config.schema import Vehicle
from whodrives.vehicle import vss

POSITION = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
TILT = "Vehicle.Cabin.Seat.Row1.DriverSide.Tilt"
YAW = "Vehicle.Body.Mirrors.PassengerSide.Yaw"
LIMITS = Vehicle().signals


def test_only_settable_comfort_signals_are_preferences() -> None:
    """The catalogue is the contract's, and holds nothing that a car reports or that locks."""
    assert len(vss.SIGNALS) == 17
    endings = {path.rpartition(".")[2] for path in vss.SIGNALS}
    assert not endings & {"OccupancyStatus", "IsLocked", "IsFolded", "IsOpen", "Speed"}
    assert all(path == signal.path for path, signal in vss.SIGNALS.items())


def test_every_signal_belongs_to_the_rule_of_what_it_moves() -> None:
    """Mirrors have a rule of their own; seat and steering wheel share the seat's."""
    assert vss.group_of(YAW) is vss.Group.MIRRORS
    assert vss.group_of(POSITION) is vss.Group.SEAT
    assert vss.group_of("Vehicle.Chassis.SteeringWheel.Tilt") is vss.Group.SEAT


@pytest.mark.parametrize("value", [0, 250, 120, 120.0])
def test_a_value_the_car_accepts_is_no_mistake(value: float) -> None:
    """Bounds are included; a whole number may come as a float, as YAML and JSON write it."""
    assert vss.check(POSITION, value, LIMITS) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (251, "251 is out of range; give a number from 0 to 250 mm"),
        (-1, "-1 is out of range; give a number from 0 to 250 mm"),
        (10.5, "10.5 is not a whole number, which uint16 asks; give a number from 0 to 250 mm"),
        (True, "True is not a finite number; give a number from 0 to 250 mm"),
        (math.nan, "nan is not a finite number; give a number from 0 to 250 mm"),
        (math.inf, "inf is not a finite number; give a number from 0 to 250 mm"),
        (10**400, "is not a finite number; give a number from 0 to 250 mm"),
        ("120", "'120' is not a finite number; give a number from 0 to 250 mm"),
        (None, "None is not a finite number; give a number from 0 to 250 mm"),
    ],
)
def test_a_value_no_ecu_takes_is_refused_with_its_mend(value: object, said: str) -> None:
    """The sentence names the path, the value and the range in its unit."""
    sentence = vss.check(POSITION, value, LIMITS)
    assert sentence is not None
    assert sentence.startswith(f"{POSITION}: ")
    assert sentence.endswith(said)


def test_vss_bounds_hold_whatever_the_car_claims() -> None:
    """A car's range wider than VSS's does not widen it, and the fix names what is accepted."""
    sentence = vss.check(YAW, 127, {YAW: vss.Range(-1000, 1000)})
    assert sentence == f"{YAW}: 127 is out of range; give a number from -100 to 100 percent"


@pytest.mark.parametrize("path", vss.SIGNALS)
@pytest.mark.parametrize("value", [1e300, -1e300, 65_535.0, 1_001.0])
def test_no_limits_make_an_impossible_value_possible(path: str, value: float) -> None:
    """Where VSS gives no bound, a physical one holds: no seat goes there."""
    signal, everything = vss.SIGNALS[path], vss.Range(-1e308, 1e308)
    assert vss.check(path, value, {path: everything}) is not None
    bound = 1_000 if signal.unit == "mm" else 100
    assert -bound <= signal.minimum < signal.maximum <= bound


def test_a_misspelt_path_is_answered_with_the_nearest() -> None:
    """A person who mistypes a path is told the right one."""
    sentence = vss.check(f"{POSITION[:-2]}m", 1, LIMITS)
    assert sentence is not None
    assert f"did you mean {POSITION}?" in sentence


def test_the_yaw_of_older_catalogues_is_not_taken_for_ours() -> None:
    """VSS 5's Mirrors...Pan has the opposite sign of Yaw: it is refused, not guessed."""
    assert vss.check("Vehicle.Body.Mirrors.DriverSide.Pan", 10, LIMITS) is not None


def test_a_signal_this_car_lacks_is_refused() -> None:
    """A preference that the car's config does not list is never sent."""
    sentence = vss.check(TILT, 1.0, {POSITION: vss.Range(0, 250)})
    assert sentence is not None
    assert "vehicle.signals" in sentence


@given(st.text(), st.none() | st.booleans() | st.floats() | st.integers() | st.text())
def test_no_path_or_value_makes_the_check_fail(path: str, value: object) -> None:
    """Whatever comes in, the answer is a sentence or None."""
    assert vss.check(path, value, LIMITS) is not None
    said = vss.check(TILT, value, LIMITS)
    assert (said is None) == (vss.is_number(value) and -5 <= value <= 15)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.sampled_from(sorted(vss.SIGNALS)), NUMBERS, st.sampled_from(vss.VERSIONS))
def test_what_is_said_in_any_version_is_understood(
    path: str, value: float, version: vss.Version
) -> None:
    """Every signal of the catalogue is there in every version, and comes back as it was."""
    assert vss.newest(*vss.spoken(path, value, version)) == (path, value)


@given(NUMBERS, st.sampled_from(vss.VERSIONS))
def test_a_mirror_looks_the_same_way_in_every_version(value: float, version: vss.Version) -> None:
    """Pan has the opposite sign of Yaw, and zero is zero, not minus zero."""
    name, meant = vss.spoken(YAW, value, version)
    if version == "6.0":
        assert (name, meant) == (YAW, value)
    else:
        assert (name, meant) == (YAW.replace("Yaw", "Pan"), -value)
        assert str(meant) != "-0.0"


@pytest.mark.parametrize(
    ("version", "lumbar", "heating"),
    [
        ("4.0", "Backrest.Lumbar.Support", "Heating"),
        ("4.1", "Backrest.Lumbar.Support", "HeatingCooling"),
        ("4.2", "Backrest.Lumbar.Support", "HeatingCooling"),
        ("5.0", "Backrest.LumbarSupport", "HeatingCooling"),
        ("5.1", "Backrest.LumbarSupport", "HeatingCooling"),
        ("6.0", "Backrest.LumbarSupport", "HeatingCooling"),
    ],
)
def test_names_change_with_the_release_that_changed_them(
    version: vss.Version, lumbar: str, heating: str
) -> None:
    """Each version is spoken to in names that its own catalogue has."""
    seat = "Vehicle.Cabin.Seat.Row1.DriverSide"
    assert vss.spoken(f"{seat}.Backrest.LumbarSupport", 10.0, version)[0] == f"{seat}.{lumbar}"
    assert vss.spoken(f"{seat}.HeatingCooling", 10.0, version)[0] == f"{seat}.{heating}"


def test_no_name_means_two_things() -> None:
    """Each version names its signals apart, so what comes in is understood without the version."""
    for version in vss.VERSIONS:
        assert len(vss.paths_of(version)) == len(vss.SIGNALS)
    assert vss.newest("Vehicle.Cabin.Seat.Row1.DriverSide.Massage", 1.0) is None


def test_the_switches_are_those_of_what_preferences_move() -> None:
    """22 in the names of VSS 5 and 6, the same 22 in those of VSS 4 and 5, and no massage."""
    old = [path for path in vss.SEAT_SWITCHES if ".Switch." in path]
    assert len(set(vss.SEAT_SWITCHES)) == 2 * len(old) == 44
    assert not any("Massage" in path for path in vss.SEAT_SWITCHES)
    seat = "Vehicle.Cabin.Seat.Row1.DriverSide"
    for path in (
        f"{seat}.IsTiltForwardSwitchEngaged",
        f"{seat}.Switch.IsTiltForwardEngaged",
        f"{seat}.Backrest.IsMoreSideBolsterSupportSwitchEngaged",
        f"{seat}.Switch.Backrest.SideBolster.IsMoreSupportEngaged",
        f"{seat}.Backrest.IsLumbarUpSwitchEngaged",
        f"{seat}.Switch.Backrest.Lumbar.IsUpEngaged",
    ):
        assert path in vss.SEAT_SWITCHES
