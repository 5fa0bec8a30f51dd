"""Home Assistant's and Velocitas' words for what whodrives says."""

import json
from contextlib import suppress
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.errors import PayloadError
from whodrives.mqtt.ecosystems import (
    POSITION_TOPIC,
    REQUEST_TOPIC,
    RESPONSE_TOPIC,
    SeatAdjuster,
    home_assistant,
)
from whodrives.trip.types import Apply, RequestResult, ResultStatus
from whodrives.vehicle import vss
from whodrives.vehicle.vss import SEAT_POSITION

MIRROR = "Vehicle.Body.Mirrors.DriverSide.Tilt"
REQUEST = "3f2b7c1e-5a64-4d0e-9c1b-0d2f4a6b8c0e"


def _entity(name: str) -> dict[str, Any]:
    [message] = [m for m in home_assistant("car") if m.topic.endswith(f"/{name}/config")]
    found: dict[str, Any] = json.loads(message.payload)
    return found


def _rendered(template: str, payload: str) -> str:
    """As Home Assistant does it: `value` is the payload, `value_json` is there if it is JSON."""
    names: dict[str, object] = {"value": payload}
    if payload:
        names["value_json"] = json.loads(payload)
    return jinja2.Environment(autoescape=False).from_string(template).render(names)  # noqa: S701 - as Home Assistant does it


def test_home_assistant_keeps_what_describes_the_car() -> None:
    """The descriptions are retained, below the default prefix, one for each entity."""
    messages = home_assistant("car")
    assert all(message.retain and message.qos == 1 for message in messages)
    assert {message.topic for message in messages} == {
        "homeassistant/sensor/whodrives_car/driver/config",
        "homeassistant/sensor/whodrives_car/preferences/config",
        "homeassistant/binary_sensor/whodrives_car/problem/config",
    }


def test_two_cars_are_two_devices_with_entities_of_their_own() -> None:
    """Ids never collide between two cars in one Home Assistant."""
    ids = {
        json.loads(message.payload)["unique_id"]
        for car in ("a", "b")
        for message in home_assistant(car)
    }
    devices = {
        json.loads(message.payload)["device"]["identifiers"][0]
        for car in ("a", "b")
        for message in home_assistant(car)
    }
    assert (len(ids), len(devices)) == (6, 2)


@pytest.mark.parametrize(
    ("payload", "state"),
    [
        ("", "nobody"),
        ('{"driver": null, "preferences": {"state": "none"}}', "unknown"),
        ('{"driver": "d-7f3a", "preferences": {"state": "none"}}', "d-7f3a"),
    ],
)
def test_the_driver_as_a_sensor(payload: str, state: str) -> None:
    """The pseudonym, `unknown` in a trip without a known driver, `nobody` outside a trip."""
    assert _rendered(_entity("driver")["value_template"], payload) == state


def test_attributes_outside_a_trip_are_empty_json() -> None:
    """An empty payload would be an erroneous one to Home Assistant."""
    assert json.loads(_rendered(_entity("driver")["json_attributes_template"], "")) == {}


@pytest.mark.parametrize(
    ("state", "available", "problem"),
    [("online", "online", "OFF"), ("degraded", "online", "ON"), ("offline", "offline", "OFF")],
)
def test_status_as_availability(state: str, available: str, problem: str) -> None:
    """Only an offline daemon is unavailable; a degraded one is a problem."""
    payload = json.dumps({"state": state, "reasons": []})
    entity = _entity("problem")
    assert _rendered(entity["availability"][0]["value_template"], payload) == available
    assert _rendered(entity["value_template"], payload) == problem


def _apply(**signals: float) -> Apply:
    paths = {"seat": SEAT_POSITION, "mirror": MIRROR}
    return Apply(1.0, REQUEST, "d-7f3a", {paths[name]: value for name, value in signals.items()})


def _adjuster() -> SeatAdjuster:
    return SeatAdjuster(vss.Range(0, 250))


def test_velocitas_is_asked_in_per_mille_of_the_travel() -> None:
    """0 is frontmost and 1000 rearmost; the request expires like ours and has our id."""
    message = _adjuster().encode(_apply(seat=125.0, mirror=5.0))
    assert message is not None
    assert (message.topic, message.qos, message.retain, message.expiry_s) == (
        REQUEST_TOPIC,
        1,
        False,
        3,
    )
    assert json.loads(message.payload) == {"requestId": REQUEST, "position": 500}


def test_velocitas_is_not_asked_for_mirrors() -> None:
    """It knows the seat's position only."""
    assert _adjuster().encode(_apply(mirror=5.0)) is None


def _response(status: object, request: str = REQUEST) -> bytes:
    return json.dumps({"requestId": request, "result": {"status": status, "message": "x"}}).encode()


def test_velocitas_answers_and_arrives() -> None:
    """Set is accepted; the wanted position is completed, once."""
    adjuster = _adjuster()
    adjuster.encode(_apply(seat=125.0))
    position = b'{"position": 500}'
    assert adjuster.decode(POSITION_TOPIC, position, 2.0) is None
    assert adjuster.decode(RESPONSE_TOPIC, _response(0), 2.1) == RequestResult(
        2.1, REQUEST, ResultStatus.ACCEPTED
    )
    assert adjuster.decode(POSITION_TOPIC, b'{"position": 499}', 2.2) is None
    assert adjuster.decode(POSITION_TOPIC, position, 2.3) == RequestResult(
        2.3, REQUEST, ResultStatus.COMPLETED
    )
    assert adjuster.decode(POSITION_TOPIC, position, 2.4) is None


def test_velocitas_refuses_while_moving() -> None:
    """A status that is not 0 is a rejection, and nothing arrives after it."""
    adjuster = _adjuster()
    adjuster.encode(_apply(seat=125.0))
    answer = adjuster.decode(RESPONSE_TOPIC, _response(1), 2.0)
    assert answer == RequestResult(2.0, REQUEST, ResultStatus.REJECTED, "seat_adjuster")
    assert adjuster.decode(POSITION_TOPIC, b'{"position": 500}', 2.1) is None


def test_answers_to_others_are_nobodys() -> None:
    """Other clients may use the seat adjuster too."""
    adjuster = _adjuster()
    adjuster.encode(_apply(seat=125.0))
    assert adjuster.decode(RESPONSE_TOPIC, _response(0, "abc"), 2.0) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_SHAPED = st.fixed_dictionaries(
    {}, optional={"requestId": st.just(REQUEST) | _JSON, "result": _JSON, "position": _JSON}
)


@given(
    topic=st.sampled_from(SeatAdjuster.topics),
    payload=st.binary() | (_JSON | _SHAPED).map(lambda body: json.dumps(body).encode()),
)
def test_hostile_answers_raise_nothing_but_payload_errors(topic: str, payload: bytes) -> None:
    """Whatever comes on the seat adjuster's topics, it is an answer, nothing, or refused."""
    adjuster = _adjuster()
    adjuster.encode(_apply(seat=125.0))
    with suppress(PayloadError):
        answer = adjuster.decode(topic, payload, 2.0)
        assert answer is None or answer.request == REQUEST
