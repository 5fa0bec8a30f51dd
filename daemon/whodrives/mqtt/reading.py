"""JSON to a typed payload; every error names topic, field and fix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from whodrives.errors import PayloadError
from whodrives.mqtt.payloads import FieldError, Number
from whodrives.mqtt.schemas import schema_of

T = TypeVar("T")


MAX_PAYLOAD_BYTES = 65_536
"""Larger payloads are refused."""


def read(topic: str, payload: bytes, kind: type[T]) -> T:
    """The payload as its type `kind`.

    Raises:
        PayloadError: names the topic, the field and the fix; nothing else is raised.
    """
    found: T = typed_payload(topic, json_object(topic, payload), kind)
    return found


def json_object(topic: str, payload: bytes) -> dict[str, Any]:
    """The JSON object in a payload."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        said = f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read"
        raise PayloadError(f"{topic}: {said}", cause="size")
    try:
        text = payload.decode()
        body = json.loads(
            text,
            object_pairs_hook=_no_twins,
            parse_constant=_no_constant,
            parse_float=_number,
            parse_int=_number,
        )
        if "\\u" in text:  # An escaped lone surrogate can be neither logged nor passed on.
            json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise PayloadError(f"{topic}: nested too deeply; see docs/mqtt.md", cause="json") from None
    except ValueError as error:
        said = f"not a JSON text in UTF-8: {_shown(str(error))}"
        raise PayloadError(f"{topic}: {said}", cause="json") from None
    if not isinstance(body, dict):
        raise PayloadError(f"{topic}: payload: give a JSON object", cause="json")
    return body


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _number(text: str) -> Number:
    """The number if a float can represent it; an int where it is whole, as 1.0."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return int(text) if text.lstrip("-").isdigit() else int(value) if value.is_integer() else value


def typed_payload(topic: str, body: object, kind: type[Any]) -> Any:
    """The JSON value as the payload type `kind`; PayloadError names topic, field and fix."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, FieldError):
            raise PayloadError(f"{topic}: {error.__cause__}") from None
        problem, _, place = str(error).partition(" - at `")
        field = place.removesuffix("`").removeprefix("$").removeprefix(".").replace("[...]", "")
    if missing := re.fullmatch("Object missing required field `(.*)`", problem):
        field, problem = ".".join(filter(None, (field, missing[1]))), "missing"
    for pattern, words in _IN_OUR_WORDS:
        problem = re.sub(pattern, words, problem, flags=re.DOTALL)
    raise PayloadError(
        f"{topic}: {field or 'payload'}: {_shown(problem)}; give {_fix(kind, field)}"
    )


_IN_OUR_WORDS = (
    ("^Expected `str` matching .*", "not of the right form"),
    ("^Expected", "expected"),
    ("^Invalid enum value (.*)", r"\1 is not known"),
    ("^Invalid RFC3339 .*", "no time"),
)


def _fix(kind: type[Struct], field: str) -> str:
    """The schema's description of a field."""
    whole = schema_of(kind)
    node = _resolved(whole, whole)
    while field:
        names = node.get("properties", {})
        name = next((n for n in names if field == n or field.startswith(f"{n}.")), None)
        if name is None:
            break
        node = _resolved(whole, names[name])
        field = field[len(name) + 1 :]
    if node.get("required"):
        return f"a JSON object with {', '.join(node['required'])}"
    return str(node.get("description", "what docs/mqtt.md says"))


def _resolved(whole: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        said = {key: value for key, value in node.items() if key != "$ref"}
        node = whole["$defs"][node["$ref"].rpartition("/")[2]] | said
    return node


def _shown(text: str) -> str:
    """The text as it may be logged: short and printable."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text.replace("`", ""))
    return plain[:120]
