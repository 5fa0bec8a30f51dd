"""The table of topics: who writes, who reads, QoS, retain, expiry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from whodrives.mqtt.payloads import (
    ApplyPayload,
    CancelPayload,
    ChoosePayload,
    CommandPayload,
    CommandResultPayload,
    DriverPayload,
    EnrolmentPayload,
    EnrolPayload,
    ForgetPayload,
    GuestPayload,
    ListenPayload,
    MetricsPayload,
    Payload,
    PositionPayload,
    RecognitionPayload,
    ResultPayload,
    SignalPayload,
    StatusPayload,
    VehiclePayload,
)

APPLY_EXPIRY_S = 3


COMMAND_EXPIRY_S = 5


ANSWER_EXPIRY_S = 10


Party: TypeAlias = Literal["whodrives", "ECU", "car", "head unit", "monitor"]
"""Who speaks or listens; a monitor is whoever only looks, such as a display or a logger."""


Retain: TypeAlias = Literal["yes", "no", "never", "as you like"]


SIGNAL_TOPIC = "vehicle/<VSS path>"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic below `whodrives/<vehicle>/`.

    Attributes:
        name: its levels; `<VSS path>` stands for a path with its dots.
        writer: who says it.
        readers: who must hear it; a monitor may hear everything.
        qos: 0 or 1.
        retain: `never` marks what would do harm; a retained one is ignored where we read it.
        expiry_s: MQTT message expiry interval; None for none.
        payload: the type of what is said.
        text: what it says, in one line.
        examples: names of the golden files.
        id: the payload's field that is also the MQTT correlation data.
        answer: the topic on which an answer comes.
    """

    name: str
    writer: Party
    readers: tuple[Party, ...]
    qos: Literal[0, 1]
    retain: Retain
    expiry_s: int | None
    payload: type[Payload]
    text: str
    examples: tuple[str, ...]
    id: str | None = None
    answer: str | None = None

    @property
    def file(self) -> str:
        """The name that its schema's file has."""
        return self.name.replace("/<VSS path>", "-signal").replace("/", "-")


def _command(name: str, payload: type[Payload], text: str, *more_examples: str) -> Topic:
    return Topic(
        name=f"command/{name}",
        writer="head unit",
        readers=("whodrives",),
        qos=1,
        retain="never",
        expiry_s=COMMAND_EXPIRY_S,
        payload=payload,
        text=text,
        examples=(f"command-{name}", *more_examples),
        id="command_id",
        answer="command/result",
    )


_TABLE = (
    Topic(
        name="status",
        writer="whodrives",
        readers=("ECU", "head unit", "monitor"),
        qos=1,
        retain="yes",
        expiry_s=None,
        payload=StatusPayload,
        text="whether whodrives can do its work",
        examples=("status", "status-offline"),
    ),
    Topic(
        name="driver",
        writer="whodrives",
        readers=("head unit", "monitor"),
        qos=1,
        retain="yes",
        expiry_s=None,
        payload=DriverPayload,
        text="who drives this trip, and what became of the preferences; cleared at its end",
        examples=("driver", "driver-rejected"),
    ),
    Topic(
        name="recognition",
        writer="whodrives",
        readers=("head unit", "monitor"),
        qos=0,
        retain="no",
        expiry_s=10,
        payload=RecognitionPayload,
        text="what was concluded about one utterance",
        examples=("recognition", "recognition-poor-sound"),
    ),
    Topic(
        name="preferences/apply",
        writer="whodrives",
        readers=("ECU",),
        qos=1,
        retain="never",
        expiry_s=APPLY_EXPIRY_S,
        payload=ApplyPayload,
        text="move to these positions, now or not at all",
        examples=("preferences-apply",),
        id="request_id",
        answer="preferences/result",
    ),
    Topic(
        name="preferences/cancel",
        writer="whodrives",
        readers=("ECU",),
        qos=1,
        retain="never",
        expiry_s=APPLY_EXPIRY_S,
        payload=CancelPayload,
        text="stop what a request started",
        examples=("preferences-cancel",),
        id="request_id",
        answer="preferences/result",
    ),
    Topic(
        name="preferences/result",
        writer="ECU",
        readers=("whodrives",),
        qos=1,
        retain="no",
        expiry_s=ANSWER_EXPIRY_S,
        payload=ResultPayload,
        text="what became of a request",
        examples=("preferences-result",),
        id="request_id",
    ),
    Topic(
        name="preferences/position",
        writer="ECU",
        readers=("whodrives", "head unit"),
        qos=1,
        retain="yes",
        expiry_s=None,
        payload=PositionPayload,
        text="where seat, steering wheel and mirrors are",
        examples=("preferences-position",),
    ),
    Topic(
        name="vehicle",
        writer="car",
        readers=("whodrives", "ECU"),
        qos=1,
        retain="as you like",
        expiry_s=None,
        payload=VehiclePayload,
        text="what trip and interlock need to know",
        examples=("vehicle",),
    ),
    Topic(
        name=SIGNAL_TOPIC,
        writer="car",
        readers=("whodrives", "ECU"),
        qos=1,
        retain="as you like",
        expiry_s=None,
        payload=SignalPayload,
        text="the same, one signal a topic",
        examples=("vehicle-signal",),
    ),
    _command("listen", ListenPayload, "the next known voice may become the driver"),
    _command("driver", ChoosePayload, "this driver, or nobody enrolled, drives"),
    _command("save", CommandPayload, "the present position is what the driver prefers"),
    _command("cancel", CommandPayload, "stop all that was asked for, and ask no more"),
    _command("forget", ForgetPayload, "erase a driver"),
    _command("enrol", EnrolPayload, "enrol whoever speaks now, or a guest", "command-enrol-guest"),
    Topic(
        name="command/result",
        writer="whodrives",
        readers=("head unit",),
        qos=1,
        retain="no",
        expiry_s=ANSWER_EXPIRY_S,
        payload=CommandResultPayload,
        text="what became of a command",
        examples=("command-result", "command-result-refused"),
        id="command_id",
    ),
    Topic(
        name="guest",
        writer="whodrives",
        readers=("head unit",),
        qos=1,
        retain="yes",
        expiry_s=None,
        payload=GuestPayload,
        text="who comes back and may be asked to enrol",
        examples=("guest",),
    ),
    Topic(
        name="enrolment",
        writer="whodrives",
        readers=("head unit",),
        qos=1,
        retain="no",
        expiry_s=ANSWER_EXPIRY_S,
        payload=EnrolmentPayload,
        text="how an enrolment goes",
        examples=("enrolment", "enrolment-refused"),
        id="command_id",
    ),
    Topic(
        name="metrics",
        writer="whodrives",
        readers=("monitor",),
        qos=0,
        retain="yes",
        expiry_s=None,
        payload=MetricsPayload,
        text="how whodrives does, in numbers",
        examples=("metrics",),
    ),
)


TOPICS: Mapping[str, Topic] = {topic.name: topic for topic in _TABLE}
"""The contract's table, by name."""


def root(vehicle: str) -> str:
    """The topic that all of this car's topics are below."""
    return f"whodrives/{vehicle}"
