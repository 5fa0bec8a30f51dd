"""The kinds of setting: accepted values and error messages."""

from __future__ import annotations

import dataclasses
import math
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import yaml

from whodrives.config.reader import Document, join_path, plain_value, shown_value
from whodrives.vehicle import vss


class _Bad:
    """Placeholder for an invalid value whose mistake was recorded."""


BAD = _Bad()


class _Kind(Protocol):
    """Reads one kind of value."""

    @property
    def want(self) -> str:
        """Description of the accepted values."""

    def read(self, sheet: Document, node: yaml.Node, path: str) -> Any:
        """The value; `BAD` and a recorded mistake if it is invalid."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar that `accepts` accepts; a relative path starts at the file's directory."""

    want: str
    accepts: Callable[[Any], bool]
    is_path: Callable[[Any], bool] = lambda _: False

    def read(self, sheet: Document, node: yaml.Node, path: str) -> Any:
        """The value; BAD, and a noted mistake, if it is not acceptable."""
        value: Any = plain_value(node)
        if not self.accepts(value):
            sheet.wrong(node, path, f"{shown_value(value)} is invalid; give {self.want}")
            return BAD
        if self.is_path(value):
            return posixpath.join(posixpath.dirname(sheet.name), value)
        return value


def text_kind(want: str, pattern: str = r".+") -> Leaf:
    """A text that matches the whole pattern; `want` describes the accepted values."""
    return Leaf(want, lambda value: is_text(value) and bool(re.fullmatch(pattern, value)))


def path_kind(want: str, *but: str) -> Leaf:
    """A path; the values in `but` are not paths and stay unchanged."""
    return Leaf(want, is_text, lambda value: value not in but)


def optional_path() -> Leaf:
    """A path, or null for none."""
    return Leaf(
        "a path, or null for none",
        lambda value: value is None or is_text(value),
        lambda value: value is not None,
    )


def is_text(value: object) -> bool:
    """Whether this is a non-empty printable text."""
    return isinstance(value, str) and value != "" and value.isprintable()


def is_integer(value: object, low: int, high: float = math.inf) -> bool:
    """Whether this is a whole number from `low` to `high`; booleans are not numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def integer_kind(low: int, high: int) -> Leaf:
    """A whole number from `low` to `high`."""
    return Leaf(f"a whole number from {low} to {high}", lambda value: is_integer(value, low, high))


def choice_kind(options: Sequence[str]) -> Leaf:
    """One of these texts."""
    return Leaf(" or ".join(options), lambda value: value in options)


@dataclass(frozen=True, slots=True)
class VersionKind:
    """A version number, with or without quotes: YAML reads a bare 6.0 as a number."""

    options: Sequence[str]

    @property
    def want(self) -> str:
        """The accepted versions."""
        return " or ".join(self.options)

    def read(self, sheet: Document, node: yaml.Node, path: str) -> Any:
        """The value; BAD, and a noted mistake, if it is not acceptable."""
        if isinstance(node, yaml.ScalarNode) and node.value in self.options:
            return node.value
        sheet.wrong(node, path, f"{shown_value(node)} is invalid; give {self.want}")
        return BAD


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping whose keys are the fields of a dataclass."""

    type: type
    nullable: bool = False

    @property
    def want(self) -> str:
        """The keys with their meanings if the section is optional; else empty."""
        if not self.nullable:
            return ""
        keys = (f"{key.name} ({key.metadata['meaning']})" for key in dataclasses.fields(self.type))
        return f"null for none, or a mapping of paths: {', '.join(keys)}"

    def read(self, sheet: Document, node: yaml.Node | None, path: str) -> Any:
        """The value; BAD, and a noted mistake, if it is not acceptable."""
        if self.nullable and (node is None or plain_value(node) is None):
            return None
        entries = sheet.entries(node, path)
        if entries is None:
            return BAD
        knobs = dataclasses.fields(self.type)
        kinds = {knob.name: kind_of(knob) for knob in knobs}
        required = [knob.name for knob in knobs if _is_required(knob)]
        for key in [key for key in entries if key not in kinds]:
            fix = vss.did_you_mean(key, kinds) or f"; known are {', '.join(kinds)}"
            sheet.wrong(entries.pop(key), join_path(path, key), f"is not a key{fix}")
        for key in [key for key in required if key not in entries]:
            sheet.wrong(node, join_path(path, key), f"is missing; give {kinds[key].want}")
        values = {
            key: kinds[key].read(sheet, value, join_path(path, key))
            for key, value in entries.items()
        }
        kept = {key: value for key, value in values.items() if value is not BAD}
        return self.type(**dict.fromkeys(required) | kept)


def _is_required(knob: dataclasses.Field[Any]) -> bool:
    return knob.default is knob.default_factory is dataclasses.MISSING


@dataclass(frozen=True, slots=True)
class LimitsKind:
    """VSS paths, each with the minimum and the maximum that the car's ECUs accept."""

    want: str = "VSS paths, each with {min: ..., max: ...} inside the range in docs/mqtt.md"

    def read(self, sheet: Document, node: yaml.Node, path: str) -> Any:
        """A `vss.Limits`."""
        found = {}
        for signal, bounds in (sheet.entries(node, path) or {}).items():
            place = join_path(path, signal)
            if mistake := vss.check_path(signal):
                sheet.wrong(bounds, path, mistake)
            elif (limits := self._bounds(sheet, bounds, place)) is not None:
                found[signal] = limits
        return MappingProxyType(found)

    @staticmethod
    def _bounds(sheet: Document, node: yaml.Node, path: str) -> vss.Range | None:
        allowed = vss.SIGNALS[path.partition("signals.")[2]].range
        bounds = Section(_Bounds).read(sheet, node, path)
        if bounds is BAD or None in (bounds.min, bounds.max):
            return None
        if bounds.min > bounds.max or bounds.min not in allowed or bounds.max not in allowed:
            unit = vss.SIGNALS[path.partition("signals.")[2]].unit
            said = f"{bounds.min} to {bounds.max} is not a range inside {allowed} {unit}"
            sheet.wrong(node, path, f"{said}; give min and max inside it")
            return None
        return vss.Range(float(bounds.min), float(bounds.max))


_NUMBER = Leaf("a finite number", vss.is_number)


SWITCH = Leaf("true or false", lambda value: isinstance(value, bool))


def knob(kind: _Kind, meaning: str) -> dict[str, Any]:
    """A field's metadata: its kind and its meaning."""
    return {"kind": kind, "meaning": meaning}


def kind_of(knob: dataclasses.Field[Any]) -> _Kind:
    """The kind of a field of the schema."""
    kind: _Kind = knob.metadata["kind"]
    return kind


@dataclass(frozen=True, slots=True)
class _Bounds:
    """A range in the configuration."""

    min: float = field(metadata=knob(_NUMBER, "the minimum"))
    max: float = field(metadata=knob(_NUMBER, "the maximum"))
