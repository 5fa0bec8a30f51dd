"""Holds messages to the published JSON schemas (docs/schemas).

Every simulated party (gateway, ECU, head unit) of the tests and tools sends through `checked`, so
that no simulation passes with a message that a real car may not send.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
VEHICLE_SIGNAL = "vehicle/"
"""A topic of the form vehicle/<VSS path> carries one signal."""


class SchemaError(Exception):
    """A message does not satisfy the published schema; the text names topic, field and reason."""


def checked(topic: str, body: object) -> bytes:
    """The payload of a message that satisfies the schema of its topic.

    Args:
        topic: below `whodrives/<vehicle>/`, like `preferences/result`.
        body: what JSON can hold.

    Raises:
        SchemaError: the topic has no schema, or the body does not satisfy it.
    """
    payload = json.dumps(body).encode()
    check(topic, payload)
    return payload


def check(topic: str, payload: bytes | bytearray) -> None:
    """Refuse a payload that does not satisfy the schema of its topic; empty clears a topic.

    Raises:
        SchemaError: the topic has no schema, or the payload does not satisfy it.
    """
    if not payload:
        return
    try:
        body = json.loads(payload)
    except ValueError as error:
        raise SchemaError(f"{topic}: not JSON: {error}") from error
    for wrong in _validator(topic).iter_errors(body):
        raise SchemaError(f"{topic}: {wrong.json_path}: {wrong.message}: {body}")


def _validator(topic: str) -> Draft202012Validator:
    if topic.startswith(VEHICLE_SIGNAL):
        return _load("vehicle-signal")
    return _load(topic.replace("/", "-"))


@cache
def _load(name: str) -> Draft202012Validator:
    path = SCHEMAS / f"{name}.json"
    if not path.exists():
        raise SchemaError(f"{name}: no schema; docs/schemas has one for each topic")
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    # Formats are a note to a validator unless it is told to check them: date-time is checked here.
    return Draft202012Validator(schema, format_checker=FormatChecker())
