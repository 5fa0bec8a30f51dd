"""Configuration and preferences as YAML: parsing and rendering."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from whodrives.config.kinds import BAD, Section, kind_of
from whodrives.config.reader import Document, plain_value, shown_value
from whodrives.config.schema import Config, Mqtt
from whodrives.errors import ConfigError, ProfileError
from whodrives.vehicle import vss


def parse(text: str, name: str) -> Config:
    """Parse a configuration; keys that are left out have their defaults.

    Args:
        text: the file's contents.
        name: the file's path; relative paths in the text start at its directory.

    Raises:
        ConfigError: lists every mistake with file, line, field and fix; nothing else is raised.
    """
    sheet = Document(name)
    root = sheet.compose(text)
    config = Section(Config).read(sheet, root, "")
    if config is not BAD:
        _check_login(sheet, config.mqtt)
    if (
        config is not BAD
        and config.mqtt.velocitas
        and vss.SEAT_POSITION not in config.vehicle.signals
    ):
        fix = f"add {vss.SEAT_POSITION} to vehicle.signals, or give false"
        sheet.wrong(None, "mqtt.velocitas", f"the seat adjuster moves nothing else; {fix}")
    sheet.raise_mistakes(ConfigError)
    finished: Config = config
    return finished


def _check_login(sheet: Document, mqtt: Mqtt) -> None:
    """Record contradictions between the settings for the broker's credentials."""
    if mqtt.tls is None and not mqtt.is_loopback:
        said = f"plain MQTT to {mqtt.host} can be read and forged on the way"
        sheet.wrong(None, "mqtt.tls", f"{said}; give tls, or host 127.0.0.1")
    if mqtt.tls is not None and (mqtt.tls.certificate is None) != (mqtt.tls.key is None):
        missing = "certificate" if mqtt.tls.certificate is None else "key"
        sheet.wrong(None, f"mqtt.tls.{missing}", "is missing; give certificate and key together")
    elif mqtt.tls is not None and mqtt.tls.certificate is None and mqtt.username is None:
        said = "the broker cannot know who we are"
        sheet.wrong(
            None, "mqtt.tls", f"{said}; give certificate and key, or mqtt.username and its password"
        )
    if mqtt.password_file is not None and mqtt.username is None:
        sheet.wrong(None, "mqtt.username", "is missing; give the user whose password that is")


def render(config: Config) -> str:
    """The configuration as commented YAML; `parse` of it gives an equal value."""
    return "\n".join(_section_lines(config, "")).lstrip() + "\n"


def reference() -> str:
    """The reference configuration: every setting with its meaning, bounds, unit and default."""
    return f"{_HEAD}\n{render(Config())}"


def parse_preferences(text: str, name: str, limits: vss.Limits) -> dict[str, float]:
    """Parse preferences, VSS path to value, from YAML `path: value` lines.

    Args:
        text: the file's contents.
        name: the file's path, for error messages.
        limits: the ranges that the car's ECUs accept.

    Raises:
        ProfileError: lists every mistake with file, line, path and fix; nothing else is raised.
    """
    sheet = Document(name)
    entries = sheet.entries(sheet.compose(text), "") or {}
    values = {path: plain_value(node) for path, node in entries.items()}
    for path, value in values.items():
        shown = shown_value(value) if isinstance(value, yaml.Node) else value
        if mistake := vss.check(path, shown, limits):
            sheet.wrong(entries[path], "", mistake)
    sheet.raise_mistakes(ProfileError)
    return {path: float(value) for path, value in values.items() if vss.is_number(value)}


def render_preferences(preferences: Mapping[str, float]) -> str:
    """The preferences as YAML with their units; the inverse of `parse_preferences`."""
    if not preferences:
        return "{}\n"
    lines = (
        f"{path}: {_digits(value)}  # {vss.SIGNALS[path].unit}"
        for path, value in preferences.items()
    )
    return "\n".join(lines) + "\n"


_HEAD = """\
# The reference configuration of whodrives. A key that is left out has the value shown here.
# Relative paths start at this file's directory.
"""


_WIDTH = 96


def _section_lines(section: Any, indent: str) -> Iterator[str]:
    """A section's settings, each below its meaning."""
    for knob in dataclasses.fields(section):
        kind, value = kind_of(knob), getattr(section, knob.name)
        said = knob.metadata["meaning"] + (f" Give {kind.want}." if kind.want else "")
        yield from ([] if indent else [""])
        mark = f"{indent}# "
        yield from textwrap.wrap(said, _WIDTH, initial_indent=mark, subsequent_indent=mark)
        yield from _value_lines(knob.name, value, indent)


def _value_lines(name: str, value: Any, indent: str) -> Iterator[str]:
    """One setting as YAML."""
    if dataclasses.is_dataclass(value):
        yield f"{indent}{name}:"
        yield from _section_lines(value, indent + "  ")
    elif isinstance(value, Mapping):
        yield f"{indent}{name}:" + ("" if value else " {}")
        for path, limits in value.items():
            bounds = f"{{min: {_digits(limits.minimum)}, max: {_digits(limits.maximum)}}}"
            yield f"{indent}  {path}: {bounds}  # {vss.SIGNALS[path].unit}"
    else:
        dumped = yaml.safe_dump({name: value}, allow_unicode=True, width=float("inf"))
        yield indent + dumped.rstrip("\n")


def _digits(number: float) -> str:
    """The number in YAML 1.1, whose floats need a point."""
    if number == int(number):
        return str(int(number))
    mantissa, exponent, power = repr(number).partition("e")
    return (mantissa if "." in mantissa else f"{mantissa}.0") + exponent + power
