"""The table of topics: writer, readers, QoS, retain, expiry."""

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
"""Writers and readers; a monitor only reads, such as a display or a logger."""


Retain: TypeAlias = Literal["yes", "no", "never", "as you like"]


SIGNAL_TOPIC = "vehicle/<VSS path>"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic below `whodrives/<vehicle>/`.

    Attributes:
        name: its levels; `<VSS path>` stands for a path with its dots.
        writer: who publishes it.
        readers: who needs it; a monitor may read everything.
        qos: 0 or 1.
        retain: `never` where a retained message would do harm; whodrives ignores retained ones.
        expiry_s: MQTT message expiry interval; None for none.
        payload: the payload's type.
        text: its content, in one line.
        examples: names of the golden files.
        id: the payload's field that is also the MQTT correlation data.
        answer: the topic of the answer.
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
        """The name of its schema file."""
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
        text="whether whodrives works",
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
        text="the driver of this trip and the state of the preferences; cleared at the end",
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
        text="the decision about one utterance",
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
        text="move to these positions now, or not at all",
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
        text="the ECU's answer to a request",
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
        text="positions of seat, steering wheel and mirrors",
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
        text="the same, one signal per topic",
        examples=("vehicle-signal",),
    ),
    _command("listen", ListenPayload, "the next known voice may become the driver"),
    _command("driver", ChoosePayload, "this driver, or nobody enrolled, drives"),
    _command("save", CommandPayload, "store the present position as the driver's preference"),
    _command("cancel", CommandPayload, "stop all requests and make no more"),
    _command("forget", ForgetPayload, "erase a driver"),
    _command(
        "enrol",
        EnrolPayload,
        "enrol whoever speaks now, or a guest",
        "command-enrol-guest",
        "command-enrol-again",
    ),
    Topic(
        name="command/result",
        writer="whodrives",
        readers=("head unit",),
        qos=1,
        retain="no",
        expiry_s=ANSWER_EXPIRY_S,
        payload=CommandResultPayload,
        text="the result of a command",
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
        text="unknown speakers who come back and may be asked to enrol",
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
        text="progress of an enrolment",
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
        text="the daemon's counters",
        examples=("metrics",),
    ),
)


TOPICS: Mapping[str, Topic] = {topic.name: topic for topic in _TABLE}
"""The contract's table, by name."""


def root(vehicle: str) -> str:
    """The parent of all topics of this car."""
    return f"whodrives/{vehicle}"
