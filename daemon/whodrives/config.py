"""Every knob of whodrives, and the YAML texts that people write.

Owns each knob's default, unit, bounds and meaning, written once: the parser, the error messages and
the reference configuration all come from the fields below. Hides YAML. Must never open a file, look
at the machine, or know what a knob does: text goes in, frozen values come out.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import posixpath
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, get_args

import yaml

from whodrives import vss
from whodrives.domain import (
    SAMPLE_RATE_HZ,
    ConfigError,
    OperatingPoint,
    ProfileError,
    WhodrivesError,
)
from whodrives.vss import Limits, Version

MICROPHONE = "microphone"
"""The sound source that is a device; any other is a path, or `PIPE`."""

PIPE = "-"
"""The sound source that is raw 16-bit little-endian PCM on standard input."""


# --- reading YAML: every mistake is noted with its line, and reading goes on ----------------------


class _Sheet:
    """One YAML text under examination; it collects the mistakes found in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mistakes: list[str] = []

    def wrong(self, node: yaml.Node | None, path: str, sentence: str) -> None:
        """Note a mistake in the field `path`, at the node's line."""
        line = f":{node.start_mark.line + 1}" if node else ""
        self.mistakes.append(f"{self.name}{line}: {path}{': ' if path else ''}{sentence}")

    def compose(self, text: str) -> yaml.Node | None:
        """The text's node tree; None if it is empty or, which is noted, not YAML.

        Besides its own errors PyYAML lets through what int() and chr() raise for absurd numbers.
        """
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            said = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
            self.wrong(None, "", f"not YAML: {said}; mend the text there")
        except RecursionError:
            self.wrong(None, "", "not readable: nested too deeply; flatten it")
        return None

    def entries(self, node: yaml.Node | None, path: str) -> dict[str, yaml.Node] | None:
        """The mapping's entries, {} where there is nothing; None and a note if it is no mapping."""
        if node is None or _plain(node) is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, path, f"{_shown(node)} is not a mapping; write `key: value` lines")
            return None
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else _shown(key)
            if name in found:
                self.wrong(key, _join(path, name), "is given twice; keep one of them")
            found[name] = value
        return found

    def raise_mistakes(self, error: type[WhodrivesError]) -> None:
        """Raise all mistakes in one report, if there are any."""
        if self.mistakes:
            count = len(self.mistakes)
            head = f"{self.name} has {count} mistake{'s' if count > 1 else ''}:"
            raise error("\n  ".join([head, *self.mistakes]))


def _plain(node: yaml.Node) -> object:
    """The scalar's null, boolean, number or text; the node itself if it is anything else.

    Dates are text: no knob is one.
    """
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    if not isinstance(node, yaml.ScalarNode) or tag not in _VALUE_TAGS | _TEXT_TAGS:
        return node
    if tag in _TEXT_TAGS:
        return str(node.value)
    try:
        value: object = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, KeyError):
        return str(node.value)
    return value


_VALUE_TAGS = {"null", "bool", "int", "float"}
_TEXT_TAGS = {"str", "timestamp", "merge", "value"}


def _shown(value: object) -> str:
    """The value as an error message shows it, in few characters."""
    if isinstance(value, yaml.ScalarNode):
        value = value.value
    if isinstance(value, yaml.Node):
        return "a mapping" if isinstance(value, yaml.MappingNode) else "a list"
    return textwrap.shorten("null" if value is None else repr(value), 60, placeholder="…")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# --- kinds of knob: what is accepted, and how it is said ------------------------------------------


class _Bad:
    """Stands for a value whose mistake was noted."""


_BAD = _Bad()


class _Kind(Protocol):
    """Reads one sort of value."""

    @property
    def want(self) -> str:
        """What is accepted, in words."""

    def read(self, sheet: _Sheet, node: yaml.Node, path: str) -> Any:
        """The value; `_BAD` and a note if it is not acceptable."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A scalar that `accepts` agrees to; a path in the file is taken from the file's folder."""

    want: str
    accepts: Callable[[Any], bool]
    is_path: Callable[[Any], bool] = lambda _: False

    def read(self, sheet: _Sheet, node: yaml.Node, path: str) -> Any:
        value: Any = _plain(node)
        if not self.accepts(value):
            sheet.wrong(node, path, f"{_shown(value)} is wrong; give {self.want}")
            return _BAD
        if self.is_path(value):
            return posixpath.join(posixpath.dirname(sheet.name), value)
        return value


def _text(want: str, pattern: str = r".+") -> _Leaf:
    return _Leaf(want, lambda value: _is_text(value) and bool(re.fullmatch(pattern, value)))


def _path(want: str, *but: str) -> _Leaf:
    return _Leaf(want, _is_text, lambda value: value not in but)


def _optional_path() -> _Leaf:
    return _Leaf(
        "a path, or null for none",
        lambda value: value is None or _is_text(value),
        lambda value: value is not None,
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_integer(value: object, low: int, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _integer(low: int, high: int) -> _Leaf:
    return _Leaf(
        f"a whole number from {low} to {high}", lambda value: _is_integer(value, low, high)
    )


def _choice(options: Sequence[str]) -> _Leaf:
    return _Leaf(" or ".join(options), lambda value: value in options)


@dataclass(frozen=True, slots=True)
class _Version:
    """One of some version numbers, with or without quotes: YAML takes a bare 6.0 for a number."""

    options: Sequence[str]

    @property
    def want(self) -> str:
        """All of them."""
        return " or ".join(self.options)

    def read(self, sheet: _Sheet, node: yaml.Node, path: str) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.value in self.options:
            return node.value
        sheet.wrong(node, path, f"{_shown(node)} is wrong; give {self.want}")
        return _BAD


@dataclass(frozen=True, slots=True)
class _Section:
    """A mapping whose keys are the fields of a dataclass."""

    type: type
    nullable: bool = False

    @property
    def want(self) -> str:
        """Its keys; with their meanings if it need not be there, so that they are shown once."""
        if not self.nullable:
            return ""
        keys = (f"{key.name} ({key.metadata['meaning']})" for key in dataclasses.fields(self.type))
        return f"null for none, or a mapping of paths: {', '.join(keys)}"

    def read(self, sheet: _Sheet, node: yaml.Node | None, path: str) -> Any:
        if self.nullable and (node is None or _plain(node) is None):
            return None
        entries = sheet.entries(node, path)
        if entries is None:
            return _BAD
        knobs = dataclasses.fields(self.type)
        kinds = {knob.name: _kind(knob) for knob in knobs}
        required = [knob.name for knob in knobs if _is_required(knob)]
        for key in [key for key in entries if key not in kinds]:
            mend = vss.did_you_mean(key, kinds) or f"; known are {', '.join(kinds)}"
            sheet.wrong(entries.pop(key), _join(path, key), f"is not a key{mend}")
        for key in [key for key in required if key not in entries]:
            sheet.wrong(node, _join(path, key), f"is missing; give {kinds[key].want}")
        values = {
            key: kinds[key].read(sheet, value, _join(path, key)) for key, value in entries.items()
        }
        kept = {key: value for key, value in values.items() if value is not _BAD}
        return self.type(**dict.fromkeys(required) | kept)


def _is_required(knob: dataclasses.Field[Any]) -> bool:
    return knob.default is knob.default_factory is dataclasses.MISSING


@dataclass(frozen=True, slots=True)
class _Limits:
    """VSS paths, each with the least and the greatest value that the car's ECUs accept."""

    want: str = "VSS paths, each with {min: ..., max: ...} inside the range in docs/mqtt.md"

    def read(self, sheet: _Sheet, node: yaml.Node, path: str) -> Any:
        """A `vss.Limits`."""
        found = {}
        for signal, bounds in (sheet.entries(node, path) or {}).items():
            place = _join(path, signal)
            if mistake := vss.check_path(signal):
                sheet.wrong(bounds, path, mistake)
            elif (limits := self._bounds(sheet, bounds, place)) is not None:
                found[signal] = limits
        return MappingProxyType(found)

    @staticmethod
    def _bounds(sheet: _Sheet, node: yaml.Node, path: str) -> vss.Range | None:
        allowed = vss.SIGNALS[path.partition("signals.")[2]].range
        bounds = _Section(_Bounds).read(sheet, node, path)
        if bounds is _BAD or None in (bounds.min, bounds.max):
            return None
        if bounds.min > bounds.max or bounds.min not in allowed or bounds.max not in allowed:
            unit = vss.SIGNALS[path.partition("signals.")[2]].unit
            said = f"{bounds.min} to {bounds.max} is no range inside {allowed} {unit}"
            sheet.wrong(node, path, f"{said}; give min and max inside it")
            return None
        return vss.Range(float(bounds.min), float(bounds.max))


_NUMBER = _Leaf("a finite number", vss.is_number)
_SWITCH = _Leaf("true or false", lambda value: isinstance(value, bool))


def _knob(kind: _Kind, meaning: str) -> dict[str, Any]:
    """A field's metadata: what it accepts, and what it means."""
    return {"kind": kind, "meaning": meaning}


def _kind(knob: dataclasses.Field[Any]) -> _Kind:
    kind: _Kind = knob.metadata["kind"]
    return kind


# --- the knobs ------------------------------------------------------------------------------------

# What a usual power seat can do; VSS itself gives these no upper bound.
_SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
_USUAL = {
    vss.SEAT_POSITION: vss.Range(0, 250),
    f"{_SEAT}.Height": vss.Range(0, 80),
    f"{_SEAT}.Tilt": vss.Range(-5, 15),
    f"{_SEAT}.Backrest.Recline": vss.Range(0, 50),
    f"{_SEAT}.Backrest.LumbarHeight": vss.Range(0, 60),
    f"{_SEAT}.Seating.Length": vss.Range(0, 60),
    f"{_SEAT}.Headrest.Height": vss.Range(0, 80),
    f"{_SEAT}.Headrest.Angle": vss.Range(-10, 30),
}


def _usual_limits() -> vss.Limits:
    return MappingProxyType(
        {path: _USUAL.get(path, signal.range) for path, signal in vss.SIGNALS.items()}
    )


@dataclass(frozen=True, slots=True)
class _Bounds:
    """How a range is written."""

    min: float = field(metadata=_knob(_NUMBER, "the least value"))
    max: float = field(metadata=_knob(_NUMBER, "the greatest value"))


@dataclass(frozen=True, slots=True)
class Vehicle:
    """The car."""

    id: str = field(
        default="car",
        metadata=_knob(
            _text("1 to 64 of a-z, 0-9 and -", r"[a-z0-9-]{1,64}"),
            "The car's name in every topic, whodrives/<id>/...",
        ),
    )
    vss: Version = field(
        default="6.0",
        metadata=_knob(
            _Version(vss.VERSIONS),
            "The version of COVESA's Vehicle Signal Specification that the car's ECUs speak. All "
            "else here and in the profiles is named as in 6.0 and translated on its way.",
        ),
    )
    signals: Limits = field(
        default_factory=_usual_limits,
        metadata=_knob(
            _Limits(),
            "The range that this car's ECUs accept for each signal; signals that are not here are "
            "never sent. The ranges shown are a usual power seat's: put your car's own.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Sound:
    """Where the sound comes from."""

    source: str = field(
        default=MICROPHONE,
        metadata=_knob(
            _path(
                f"{MICROPHONE}, the path of a sound file, or {PIPE} for raw 16-bit little-endian "
                "PCM on standard input",
                MICROPHONE,
                PIPE,
            ),
            "What is listened to.",
        ),
    )
    device: str | int | None = field(
        default=None,
        metadata=_knob(
            _Leaf(
                "a name, an index from 0, or null for the system's default",
                lambda value: value is None or _is_text(value) or _is_integer(value, 0),
            ),
            "Which microphone. Two of one name are told apart as NAME (ALSA) and NAME (JACK).",
        ),
    )
    rate_hz: int = field(
        default=SAMPLE_RATE_HZ,
        metadata=_knob(_integer(8_000, 192_000), "Samples per second, in Hz; only for a pipe."),
    )
    channels: int = field(
        default=1, metadata=_knob(_integer(1, 32), "Number of channels; only for a pipe.")
    )


@dataclass(frozen=True, slots=True)
class RecognitionSettings:
    """How sure whodrives has to be."""

    strangers: OperatingPoint = field(
        default="1/100",
        metadata=_knob(
            _choice(get_args(OperatingPoint)),
            "How many strangers' utterances may be taken for a driver. With fewer, drivers have "
            "to speak longer or are more often not recognised.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """Files that prove the broker's identity and our own."""

    ca: str = field(metadata=_knob(_path("a path"), "the certificate authority's PEM file"))
    certificate: str | None = field(
        default=None,
        metadata=_knob(
            _optional_path(), "this client's certificate, PEM; needed without mqtt.username"
        ),
    )
    key: str | None = field(default=None, metadata=_knob(_optional_path(), "its private key, PEM"))


@dataclass(frozen=True, slots=True)
class Mqtt:
    """The broker. Plain MQTT is for this machine's own broker only."""

    host: str = field(
        default="127.0.0.1",
        metadata=_knob(
            _text("a host name or address", r"[A-Za-z0-9._:-]+"),
            "Where it is. Without tls it must be this machine.",
        ),
    )
    port: int | None = field(
        default=None,
        metadata=_knob(
            _Leaf(
                "1 to 65535, or null for 1883, with tls 8883",
                lambda value: value is None or _is_integer(value, 1, 65_535),
            ),
            "Its TCP port.",
        ),
    )
    tls: Tls | None = field(
        default=None,
        metadata=_knob(_Section(Tls, nullable=True), "Encryption, and who is who."),
    )
    username: str | None = field(
        default=None,
        metadata=_knob(
            _Leaf(
                "a user's name, or null for none", lambda value: value is None or _is_text(value)
            ),
            "The user to log in as, where the broker asks for a password.",
        ),
    )
    password_file: str | None = field(
        default=None,
        metadata=_knob(
            _optional_path(),
            "The file that holds that user's password and nothing else, readable by the user and "
            "the group of whodrives only. A systemd credential named mqtt-password takes "
            "precedence.",
        ),
    )
    home_assistant: bool = field(
        default=False,
        metadata=_knob(
            _SWITCH,
            "Whether Home Assistant is told, below homeassistant/, how to show this car.",
        ),
    )
    evidence: bool = field(
        default=False,
        metadata=_knob(
            _SWITCH,
            "Whether recognition tells the exact likelihood ratios to whoever may read it: for a "
            "technician. They help whoever tries to imitate a driver.",
        ),
    )
    velocitas: bool = field(
        default=False,
        metadata=_knob(
            _SWITCH,
            "Whether Velocitas' seat adjuster is asked too, below seatadjuster/, for the seat's "
            "position. It knows no time: what comes late to it moves the seat late.",
        ),
    )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self.host, self.port or (8883 if self.tls else 1883)

    @property
    def is_loopback(self) -> bool:
        """Whether the broker is on this machine; names other than localhost count as away."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class ProfileFiles:
    """Where the drivers' sealed profiles are."""

    directory: str = field(
        default="/var/lib/whodrives/profiles",
        metadata=_knob(_path("a path"), "The folder of the sealed profiles."),
    )
    key_file: str = field(
        default="/var/lib/whodrives/profile-key",
        metadata=_knob(
            _path("a path"),
            "The key that seals them: 32 bytes that only whodrives may read, outside that folder. "
            "Made at the first enrolment. A systemd credential named profile-key goes before it.",
        ),
    )
    retention_days: int = field(
        default=365,
        metadata=_knob(
            _Leaf("0 to 36500", lambda value: _is_integer(value, 0, 36_500)),
            "Days after which a driver who was not recognised is offered to be forgotten, by "
            "`drivers list` and `doctor`; nobody is forgotten unasked. 0: never.",
        ),
    )


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the models are."""

    directory: str = field(
        default="/opt/whodrives/models",
        metadata=_knob(_path("a path"), "The folder that tools/build_models filled."),
    )


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """People who are not enrolled and come back."""

    remember: bool = field(
        default=False,
        metadata=_knob(
            _Leaf("true or false", lambda value: isinstance(value, bool)),
            "Whether to keep, sealed, the voices of those who come back, so that they can be "
            "offered to be enrolled. Ask them first: they have not agreed to anything yet.",
        ),
    )


def _part(section: type, meaning: str) -> dict[str, Any]:
    return _knob(_Section(section), meaning)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. Relative paths have been joined to the file's folder."""

    vehicle: Vehicle = field(default_factory=Vehicle, metadata=_part(Vehicle, "The car."))
    sound: Sound = field(default_factory=Sound, metadata=_part(Sound, "The sound."))
    recognition: RecognitionSettings = field(
        default_factory=RecognitionSettings,
        metadata=_part(RecognitionSettings, "How sure whodrives has to be."),
    )
    mqtt: Mqtt = field(default_factory=Mqtt, metadata=_part(Mqtt, "The MQTT broker."))
    profiles: ProfileFiles = field(
        default_factory=ProfileFiles, metadata=_part(ProfileFiles, "The enrolled drivers.")
    )
    guests: GuestSettings = field(
        default_factory=GuestSettings, metadata=_part(GuestSettings, "Guests.")
    )
    models: ModelFiles = field(
        default_factory=ModelFiles, metadata=_part(ModelFiles, "The models.")
    )


# --- texts to values and back ---------------------------------------------------------------------


def parse(text: str, name: str) -> Config:
    """The configuration that a YAML text describes; what it leaves out has its default.

    Args:
        text: the file's contents.
        name: the file's path; relative paths in the text start at its folder.

    Raises:
        ConfigError: lists every mistake with file, line, field and mend; nothing else is raised.
    """
    sheet = _Sheet(name)
    root = sheet.compose(text)
    config = _Section(Config).read(sheet, root, "")
    if config is not _BAD:
        _check_login(sheet, config.mqtt)
    if (
        config is not _BAD
        and config.mqtt.velocitas
        and vss.SEAT_POSITION not in config.vehicle.signals
    ):
        mend = f"add {vss.SEAT_POSITION} to vehicle.signals, or give false"
        sheet.wrong(None, "mqtt.velocitas", f"the seat adjuster moves nothing else; {mend}")
    sheet.raise_mistakes(ConfigError)
    finished: Config = config
    return finished


def _check_login(sheet: _Sheet, mqtt: Mqtt) -> None:
    """Note what does not fit together in how whodrives and the broker know each other."""
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
    """The configuration as commented YAML; `parse` reads it back to an equal value."""
    return "\n".join(_section_lines(config, "")).lstrip() + "\n"


def reference() -> str:
    """The reference configuration: every knob with its meaning, bounds, unit and default."""
    return f"{_HEAD}\n{render(Config())}"


def parse_preferences(text: str, name: str, limits: vss.Limits) -> dict[str, float]:
    """The preferences, VSS path to value, that a YAML text of `path: value` lines describes.

    Args:
        text: the file's contents.
        name: the file's path, for the report.
        limits: what the car's ECUs accept.

    Raises:
        ProfileError: lists every mistake with file, line, path and mend; nothing else is raised.
    """
    sheet = _Sheet(name)
    entries = sheet.entries(sheet.compose(text), "") or {}
    values = {path: _plain(node) for path, node in entries.items()}
    for path, value in values.items():
        shown = _shown(value) if isinstance(value, yaml.Node) else value
        if mistake := vss.check(path, shown, limits):
            sheet.wrong(entries[path], "", mistake)
    sheet.raise_mistakes(ProfileError)
    return {path: float(value) for path, value in values.items() if vss.is_number(value)}


def render_preferences(preferences: Mapping[str, float]) -> str:
    """The preferences as YAML with their units; `parse_preferences` reads it back."""
    if not preferences:
        return "{}\n"
    lines = (
        f"{path}: {_digits(value)}  # {vss.SIGNALS[path].unit}"
        for path, value in preferences.items()
    )
    return "\n".join(lines) + "\n"


_HEAD = """\
# The reference configuration of whodrives. A key that is left out has the value shown here.
# Relative paths start at this file's folder.
"""
_WIDTH = 96


def _section_lines(section: Any, indent: str) -> Iterator[str]:
    """A section's knobs, each below its meaning."""
    for knob in dataclasses.fields(section):
        kind, value = _kind(knob), getattr(section, knob.name)
        said = knob.metadata["meaning"] + (f" Give {kind.want}." if kind.want else "")
        yield from ([] if indent else [""])
        mark = f"{indent}# "
        yield from textwrap.wrap(said, _WIDTH, initial_indent=mark, subsequent_indent=mark)
        yield from _value_lines(knob.name, value, indent)


def _value_lines(name: str, value: Any, indent: str) -> Iterator[str]:
    """One knob as YAML."""
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
    """The number so that YAML 1.1 reads the same one: its floats need a point."""
    if number == int(number):
        return str(int(number))
    mantissa, exponent, power = repr(number).partition("e")
    return (mantissa if "." in mantissa else f"{mantissa}.0") + exponent + power
