"""Every setting with its default, unit, bounds and meaning."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, get_args

from whodrives.audio.blocks import SAMPLE_RATE_HZ
from whodrives.config.kinds import (
    SWITCH,
    Leaf,
    LimitsKind,
    Section,
    VersionKind,
    choice_kind,
    integer_kind,
    is_integer,
    is_text,
    knob,
    optional_path,
    path_kind,
    text_kind,
)
from whodrives.vehicle import vss
from whodrives.vehicle.vss import Limits, Version
from whodrives.voice.types import OperatingPoint

MICROPHONE = "microphone"
"""The sound source that is a device; any other is a path, or `PIPE`."""


PIPE = "-"
"""The sound source that is raw 16-bit little-endian PCM on standard input."""


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
class Vehicle:
    """The car."""

    id: str = field(
        default="car",
        metadata=knob(
            text_kind("1 to 64 of a-z, 0-9 and -", r"[a-z0-9-]{1,64}"),
            "The car's name in every topic, whodrives/<id>/...",
        ),
    )
    vss: Version = field(
        default="6.0",
        metadata=knob(
            VersionKind(vss.VERSIONS),
            "The version of COVESA's Vehicle Signal Specification that the car's ECUs speak. All "
            "else here and in the profiles is named as in 6.0 and translated on its way.",
        ),
    )
    signals: Limits = field(
        default_factory=_usual_limits,
        metadata=knob(
            LimitsKind(),
            "The range that this car's ECUs accept for each signal; signals that are not here are "
            "never sent. The ranges shown are a usual power seat's: put your car's own.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Sound:
    """Where the sound comes from."""

    source: str = field(
        default=MICROPHONE,
        metadata=knob(
            path_kind(
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
        metadata=knob(
            Leaf(
                "a name, an index from 0, or null for the system's default",
                lambda value: value is None or is_text(value) or is_integer(value, 0),
            ),
            "Which microphone. Two of one name are told apart as NAME (ALSA) and NAME (JACK).",
        ),
    )
    rate_hz: int = field(
        default=SAMPLE_RATE_HZ,
        metadata=knob(integer_kind(8_000, 192_000), "Samples per second, in Hz; only for a pipe."),
    )
    channels: int = field(
        default=1, metadata=knob(integer_kind(1, 32), "Number of channels; only for a pipe.")
    )


@dataclass(frozen=True, slots=True)
class RecognitionSettings:
    """How sure whodrives has to be."""

    strangers: OperatingPoint = field(
        default="1/100",
        metadata=knob(
            choice_kind(get_args(OperatingPoint)),
            "How many strangers' utterances may be taken for a driver. With fewer, drivers have "
            "to speak longer or are more often not recognised.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """Files that prove the broker's identity and our own."""

    ca: str = field(metadata=knob(path_kind("a path"), "the certificate authority's PEM file"))
    certificate: str | None = field(
        default=None,
        metadata=knob(
            optional_path(), "this client's certificate, PEM; needed without mqtt.username"
        ),
    )
    key: str | None = field(default=None, metadata=knob(optional_path(), "its private key, PEM"))


@dataclass(frozen=True, slots=True)
class Mqtt:
    """The broker. Plain MQTT is for this machine's own broker only."""

    host: str = field(
        default="127.0.0.1",
        metadata=knob(
            text_kind("a host name or address", r"[A-Za-z0-9._:-]+"),
            "Where it is. Without tls it must be this machine.",
        ),
    )
    port: int | None = field(
        default=None,
        metadata=knob(
            Leaf(
                "1 to 65535, or null for 1883, with tls 8883",
                lambda value: value is None or is_integer(value, 1, 65_535),
            ),
            "Its TCP port.",
        ),
    )
    tls: Tls | None = field(
        default=None,
        metadata=knob(Section(Tls, nullable=True), "Encryption, and who is who."),
    )
    username: str | None = field(
        default=None,
        metadata=knob(
            Leaf("a user's name, or null for none", lambda value: value is None or is_text(value)),
            "The user to log in as, where the broker asks for a password.",
        ),
    )
    password_file: str | None = field(
        default=None,
        metadata=knob(
            optional_path(),
            "The file that holds that user's password and nothing else, readable by the user and "
            "the group of whodrives only. A systemd credential named mqtt-password takes "
            "precedence.",
        ),
    )
    home_assistant: bool = field(
        default=False,
        metadata=knob(
            SWITCH,
            "Whether Home Assistant is told, below homeassistant/, how to show this car.",
        ),
    )
    evidence: bool = field(
        default=False,
        metadata=knob(
            SWITCH,
            "Whether recognition tells the exact likelihood ratios to whoever may read it: for a "
            "technician. They help whoever tries to imitate a driver.",
        ),
    )
    velocitas: bool = field(
        default=False,
        metadata=knob(
            SWITCH,
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
        metadata=knob(path_kind("a path"), "The folder of the sealed profiles."),
    )
    key_file: str = field(
        default="/var/lib/whodrives/profile-key",
        metadata=knob(
            path_kind("a path"),
            "The key that seals them: 32 bytes that only whodrives may read, outside that folder. "
            "Made at the first enrolment. A systemd credential named profile-key goes before it.",
        ),
    )
    retention_days: int = field(
        default=365,
        metadata=knob(
            Leaf("0 to 36500", lambda value: is_integer(value, 0, 36_500)),
            "Days after which a driver who was not recognised is offered to be forgotten, by "
            "`drivers list` and `doctor`; nobody is forgotten unasked. 0: never.",
        ),
    )


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the models are."""

    directory: str = field(
        default="/opt/whodrives/models",
        metadata=knob(path_kind("a path"), "The folder that tools/build_models filled."),
    )


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """People who are not enrolled and come back."""

    remember: bool = field(
        default=False,
        metadata=knob(
            Leaf("true or false", lambda value: isinstance(value, bool)),
            "Whether to keep, sealed, the voices of those who come back, so that they can be "
            "offered to be enrolled. Ask them first: they have not agreed to anything yet.",
        ),
    )


def _part(section: type, meaning: str) -> dict[str, Any]:
    return knob(Section(section), meaning)


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
