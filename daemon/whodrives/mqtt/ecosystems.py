"""Home Assistant and Eclipse Velocitas: the same facts in their formats.

Owns the MQTT messages that the two expect; each is an option that is off by default. Pure: events
and payloads in, messages and inputs out. Must not decide anything: a Velocitas seat adjuster gets
the request that the ECU gets, at the same moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from whodrives import __version__
from whodrives.mqtt.encode import Message
from whodrives.mqtt.reading import read
from whodrives.mqtt.topics import APPLY_EXPIRY_S, root
from whodrives.trip.types import Apply, RequestResult, ResultStatus
from whodrives.vehicle import vss

HOME_ASSISTANT_PREFIX = "homeassistant"
"""Home Assistant's default discovery prefix."""


def home_assistant(vehicle: str) -> tuple[Message, ...]:
    """Home Assistant's discovery messages for this car, retained; one message per entity.

    Uses MQTT discovery of single entities (https://www.home-assistant.io/integrations/mqtt), which
    every version supports. The entities read `driver` and `status` unchanged.

    Args:
        vehicle: the car's name in the topics.
    """
    entities = {
        ("sensor", "driver"): {
            "name": "Driver",
            "icon": "mdi:account-voice",
            "state_topic": f"{root(vehicle)}/driver",
            # The payload is empty outside a trip.
            "value_template": "{{ value_json.driver or 'unknown' if value else 'nobody' }}",
            "json_attributes_topic": f"{root(vehicle)}/driver",
            "json_attributes_template": "{{ value if value else '{}' }}",
        },
        ("sensor", "preferences"): {
            "name": "Seat and mirrors",
            "icon": "mdi:car-seat",
            "state_topic": f"{root(vehicle)}/driver",
            "value_template": "{{ value_json.preferences.state if value else 'none' }}",
        },
        ("binary_sensor", "problem"): {
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": f"{root(vehicle)}/status",
            "value_template": "{{ 'ON' if value_json.state == 'degraded' else 'OFF' }}",
            "json_attributes_topic": f"{root(vehicle)}/status",
            "json_attributes_template": "{{ {'reasons': value_json.reasons} | tojson }}",
        },
    }
    return tuple(
        _discovery(vehicle, component, name, entity)
        for (component, name), entity in entities.items()
    )


def _discovery(vehicle: str, component: str, name: str, entity: Mapping[str, str]) -> Message:
    node = f"whodrives_{vehicle}"
    body = {
        **entity,
        "unique_id": f"{node}_{name}",
        "object_id": f"{node}_{name}",
        "availability": [
            {
                "topic": f"{root(vehicle)}/status",
                "value_template": "{{ 'offline' if value_json.state == 'offline' else 'online' }}",
            }
        ],
        "device": {
            "identifiers": [node],
            "name": f"whodrives {vehicle}",
            "manufacturer": "whodrives",
            "sw_version": __version__,
        },
        "origin": {"name": "whodrives", "sw_version": __version__},
    }
    topic = f"{HOME_ASSISTANT_PREFIX}/{component}/{node}/{name}/config"
    return Message(topic, json.dumps(body).encode(), 1, retain=True)


REQUEST_TOPIC = "seatadjuster/setPosition/request"


RESPONSE_TOPIC = "seatadjuster/setPosition/response"


POSITION_TOPIC = "seatadjuster/currentPosition"


_REARMOST = 1000
"""The seat adjuster's positions range from 0 (frontmost) to 1000 (rearmost)."""


class Result(Struct, frozen=True):
    """Whether a position was set."""

    status: Annotated[int, Meta(description="0 for done, another whole number for not")]


class Response(Struct, frozen=True):
    """The seat adjuster's answer."""

    requestId: Annotated[str | int, Meta(description="the request's own")]  # noqa: N815 - their name
    result: Annotated[Result, Meta(description="a JSON object with the status")]


class PresentPosition(Struct, frozen=True):
    """The seat's present position."""

    position: Annotated[int | float, Meta(description="a number from 0 to 1000")]


class SeatAdjuster:
    """Encodes requests for Velocitas' seat adjuster (an example vehicle app), decodes its answers.

    The seat adjuster answers a request with whether the position was set. Only its present position
    shows that the seat has arrived, so the last request is remembered here.

    Args:
        travel: the range of the seat's position that this car's ECUs accept, in mm from the front.
    """

    topics = (RESPONSE_TOPIC, POSITION_TOPIC)
    """The exact topics that `decode` reads."""

    def __init__(self, travel: vss.Range) -> None:
        self._travel = travel
        self._asked: tuple[str, int] | None = None
        self._accepted = False

    def encode(self, event: Apply) -> Message | None:
        """The seat adjuster's request; None if the event does not move the seat's position.

        It expires at the broker like `preferences/apply`. The seat adjuster's payload has no time,
        so a message that has left the broker may be acted on late.
        """
        if vss.SEAT_POSITION not in event.signals:
            return None
        position = self._per_mille(event.signals[vss.SEAT_POSITION])
        self._asked, self._accepted = (event.request, position), False
        body = {"requestId": event.request, "position": position}
        return Message(REQUEST_TOPIC, json.dumps(body).encode(), 1, expiry_s=APPLY_EXPIRY_S)

    def decode(self, topic: str, payload: bytes, received_at_s: float) -> RequestResult | None:
        """The result of the last request; None if the message has none.

        Args:
            topic: one of `topics`.
            payload: as received.
            received_at_s: time of arrival (monotonic, s).

        Raises:
            PayloadError: the message is invalid; names topic, field and fix.
        """
        if topic == POSITION_TOPIC:
            return self._arrived(read(topic, payload, PresentPosition).position, received_at_s)
        return self._answered(read(topic, payload, Response), received_at_s)

    def _answered(self, response: Response, at_s: float) -> RequestResult | None:
        if self._asked is None or response.requestId != self._asked[0]:
            return None
        request = self._asked[0]
        self._accepted = response.result.status == 0
        if self._accepted:
            return RequestResult(at_s, request, ResultStatus.ACCEPTED)
        self._asked = None
        return RequestResult(at_s, request, ResultStatus.REJECTED, "seat_adjuster")

    def _arrived(self, position: float, at_s: float) -> RequestResult | None:
        if self._asked is None or not self._accepted or position != self._asked[1]:
            return None
        (request, _), self._asked = self._asked, None
        return RequestResult(at_s, request, ResultStatus.COMPLETED)

    def _per_mille(self, millimetres: float) -> int:
        span = self._travel.maximum - self._travel.minimum
        share = (millimetres - self._travel.minimum) / span if span > 0 else 0.0
        return round(_REARMOST * min(max(share, 0.0), 1.0))
