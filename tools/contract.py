"""Writes the contract with the car for machines: docs/asyncapi.yaml and docs/schemas/*.json.

    python tools/contract.py

Everything comes from `whodrives.mqtt` and the examples in tests/golden/mqtt. A test fails while
the files in docs are not what this writes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

import whodrives
from whodrives.mqtt.encode import encode_offline
from whodrives.mqtt.link import KEEPALIVE_S
from whodrives.mqtt.payloads import SCHEMA
from whodrives.mqtt.schemas import schema, schema_components
from whodrives.mqtt.topics import TOPICS, Topic, root

REPOSITORY = Path(__file__).parents[1]
GOLDEN = REPOSITORY / "tests" / "golden" / "mqtt"
DOCS = REPOSITORY / "docs"
VEHICLE = "car"


class _Plain(yaml.SafeDumper):
    """YAML without anchors: what is the same is written again."""

    def ignore_aliases(self, data: object) -> bool:
        """Never refer to what was written before."""
        del data
        return True


def files() -> dict[Path, str]:
    """What is to be written: the path of each file, and its text."""
    schemas = {
        DOCS / "schemas" / f"{topic.file}.json": json.dumps(schema(topic), indent=2) + "\n"
        for topic in TOPICS.values()
    }
    text = yaml.dump(document(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
    return schemas | {DOCS / "asyncapi.yaml": f"# Written by tools/contract.py.\n{text}"}


def document() -> dict[str, Any]:
    """The contract as an AsyncAPI 3.0 document; whodrives is the application."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "whodrives",
            "version": f"{SCHEMA}.0.0",
            "description": f"What whodrives {whodrives.__version__} says and hears over MQTT 5.",
            "externalDocs": {
                "url": "https://github.com/COVESA/vehicle_signal_specification",
                "description": "The Vehicle Signal Specification, which names the signals.",
            },
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {_name(topic): _channel(topic) for topic in TOPICS.values()},
        "operations": {_operation_name(topic): _operation(topic) for topic in TOPICS.values()},
        "components": {
            "messages": {_name(topic): _message(topic) for topic in TOPICS.values()},
            "schemas": schema_components("#/components/schemas/{name}"),
        },
    }


def _servers() -> dict[str, Any]:
    will = encode_offline(VEHICLE, "the connection was lost")
    mqtt = {
        "clientId": f"whodrives-{VEHICLE}",
        "cleanSession": True,
        "lastWill": {
            "topic": will.topic,
            "qos": will.qos,
            "message": will.payload.decode(),
            "retain": will.retain,
        },
        "keepAlive": KEEPALIVE_S,
    }
    return {
        "car": {
            "host": "{host}:8883",
            "protocol": "secure-mqtt",
            "protocolVersion": "5",
            "description": "The car's broker. Each client has a certificate and rights of its own.",
            "variables": {"host": {"description": "the broker's host name"}},
            "security": [{"type": "X509"}],
            "bindings": {"mqtt": mqtt},
        },
        "loopback": {
            "host": "127.0.0.1:1883",
            "protocol": "mqtt",
            "protocolVersion": "5",
            "description": "A broker on the same machine; commands that erase are refused on it.",
            "bindings": {"mqtt": mqtt},
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    parameters = {"vehicle": {"description": "vehicle.id of the configuration", "default": VEHICLE}}
    if "<VSS path>" in topic.name:
        path = "a VSS path with its dots"
        parameters["path"] = {"description": path, "default": "Vehicle.Speed"}
    return {
        "address": root("{vehicle}") + "/" + topic.name.replace("<VSS path>", "{path}"),
        "title": topic.name,
        "description": f"{_sentence(topic.text)} From: {topic.writer}. For: "
        f"{', '.join(topic.readers)}. Retained: {topic.retain}.",
        "messages": {_name(topic): {"$ref": f"#/components/messages/{_name(topic)}"}},
        "parameters": parameters,
    }


def _operation(topic: Topic) -> dict[str, Any]:
    binding: dict[str, Any] = {"qos": topic.qos}
    if topic.retain != "as you like":
        binding["retain"] = topic.retain == "yes"
    if topic.expiry_s is not None:
        binding["messageExpiryInterval"] = topic.expiry_s
    operation: dict[str, Any] = {
        "action": "send" if topic.writer == "whodrives" else "receive",
        "channel": {"$ref": f"#/channels/{_name(topic)}"},
        "summary": _sentence(topic.text),
        "messages": [{"$ref": f"#/channels/{_name(topic)}/messages/{_name(topic)}"}],
        "bindings": {"mqtt": binding},
    }
    if topic.answer:
        name = _name(TOPICS[topic.answer])
        operation["reply"] = {
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
        }
    return operation


def _message(topic: Topic) -> dict[str, Any]:
    binding: dict[str, Any] = {}
    message: dict[str, Any] = {
        "name": _name(topic),
        "title": topic.name,
        "summary": _sentence(topic.text),
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{topic.payload.__name__}"},
        "examples": [
            {"name": name, "payload": json.loads((GOLDEN / f"{name}.json").read_text())}
            for name in topic.examples
        ],
    }
    if topic.id:
        message["correlationId"] = {"location": f"$message.payload#/{topic.id}"}
        binding["correlationData"] = {"type": "string", "description": f"the {topic.id}"}
    if topic.answer:
        binding["responseTopic"] = f"{root(VEHICLE)}/{topic.answer}"
    return message | ({"bindings": {"mqtt": binding}} if binding else {})


def _name(topic: Topic) -> str:
    """The topic's name as a key: preferences/apply is preferencesApply."""
    return re.sub(r"-(\w)", lambda match: match[1].upper(), topic.file)


def _operation_name(topic: Topic) -> str:
    name = _name(topic)
    return ("send" if topic.writer == "whodrives" else "receive") + name[0].upper() + name[1:]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def main() -> None:
    """Write the files, and remove schemas of topics that are no more."""
    written = files()
    for path in (DOCS / "schemas").glob("*.json"):
        if path not in written:
            path.unlink()
    for path, text in written.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
