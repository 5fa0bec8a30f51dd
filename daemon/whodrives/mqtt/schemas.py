"""JSON Schemas (draft 2020-12) of the payloads."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from whodrives.mqtt.payloads import SCHEMA
from whodrives.mqtt.topics import TOPICS, Topic


@cache
def schema_of(payload: type[Struct]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a payload's type."""
    found: dict[str, Any] = _brief(msgspec.json.schema(payload))
    return found


def _brief(node: Any) -> Any:
    """The schema with only the first paragraph of each docstring, and ECMA-262 patterns."""
    if isinstance(node, list):
        return [_brief(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _brief(value) for key, value in node.items()}
    if isinstance(text := found.get("description"), str):
        found["description"] = " ".join(text.partition("\n\n")[0].split())
    if isinstance(pattern := found.get("pattern"), str):
        found["pattern"] = pattern.replace(r"\Z", "$")
    return found


def schema(topic: Topic) -> dict[str, Any]:
    """The self-contained JSON Schema (draft 2020-12) of a topic's payload."""
    found = schema_of(topic.payload)["$defs"]
    inner: dict[str, Any] = found[topic.payload.__name__]
    rest = {key: value for key, value in found.items() if value is not inner}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:whodrives:{SCHEMA}:{topic.file}",
    }
    return head | inner | {"title": topic.name} | ({"$defs": rest} if rest else {})


def schema_components(ref_template: str) -> dict[str, Any]:
    """The JSON Schemas of all payloads and their parts, by type name, for a larger document.

    Args:
        ref_template: the form of a reference to one of them, with `{name}`.
    """
    payloads = [topic.payload for topic in TOPICS.values()]
    found: dict[str, Any] = _brief(
        msgspec.json.schema_components(payloads, ref_template=ref_template)[1]
    )
    return found
