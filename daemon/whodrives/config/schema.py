"""Every setting with default, unit, bounds and meaning."""

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
"""The source that is a device; any other is a path or `PIPE`."""


PIPE = "-"
"""The source that is raw 16-bit little-endian PCM on standard input."""


# Ranges of a usual power seat; VSS gives these signals no upper bound.
_USUAL = {
    vss.SEAT_POSITION: vss.Range(0, 250),
    f"{vss.SEAT}.Height": vss.Range(0, 80),
    f"{vss.SEAT}.Tilt": vss.Range(-5, 15),
    f"{vss.SEAT}.Backrest.Recline": vss.Range(0, 50),
    f"{vss.SEAT}.Backrest.LumbarHeight": vss.Range(0, 60),
    f"{vss.SEAT}.Seating.Length": vss.Range(0, 60),
    f"{vss.SEAT}.Headrest.Height": vss.Range(0, 80),
    f"{vss.SEAT}.Headrest.Angle": vss.Range(-10, 30),
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
            "The version of COVESA's Vehicle Signal Specification that the car's ECUs use. This "
            "file and the profiles use the names of 6.0, which are translated on the bus.",
        ),
    )
    signals: Limits = field(
        default_factory=_usual_limits,
        metadata=knob(
            LimitsKind(),
            "The range that this car's ECUs accept for each signal; signals that are not listed "
            "are never sent. The defaults are those of a usual power seat: set your car's own.",
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
            "The sound source.",
        ),
    )
    device: str | int | None = field(
        default=None,
        metadata=knob(
            Leaf(
                "a name, an index from 0, or null for the system's default",
                lambda value: value is None or is_text(value) or is_integer(value, 0),
            ),
            "The microphone. Two with one name are distinguished as NAME (ALSA) and NAME (JACK).",
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
    """Error rates of recognition."""

    strangers: OperatingPoint = field(
        default="1/100",
        metadata=knob(
            choice_kind(get_args(OperatingPoint)),
            "The target FPIR: the share of strangers' utterances that may be accepted as a "
            "driver. With 1/1000, drivers must speak longer or are rejected more often.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of the broker's authority and of whodrives."""

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
    """The broker. Plain MQTT is allowed only to a broker on this machine."""

    host: str = field(
        default="127.0.0.1",
        metadata=knob(
            text_kind("a host name or address", r"[A-Za-z0-9._:-]+"),
            "The broker's host. Without tls it must be this machine.",
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
        metadata=knob(Section(Tls, nullable=True), "Encryption and certificates."),
    )
    username: str | None = field(
        default=None,
        metadata=knob(
            Leaf("a user's name, or null for none", lambda value: value is None or is_text(value)),
            "The user to log in as, if the broker requires a password.",
        ),
    )
    password_file: str | None = field(
        default=None,
        metadata=knob(
            optional_path(),
            "The file that contains only that user's password, readable only by the user and the "
            "group of whodrives. A systemd credential named mqtt-password takes precedence.",
        ),
    )
    home_assistant: bool = field(
        default=False,
        metadata=knob(
            SWITCH,
            "Whether this car is described to Home Assistant, below homeassistant/.",
        ),
    )
    evidence: bool = field(
        default=False,
        metadata=knob(
            SWITCH,
            "Whether recognition includes the exact likelihood ratios, for diagnosis. They help "
            "an attacker to imitate a driver.",
        ),
    )
    velocitas: bool = field(
        default=False,
        metadata=knob(
            SWITCH,
            "Whether Velocitas' seat adjuster also gets requests for the seat's position, below "
            "seatadjuster/. It checks no times: a late message moves the seat late.",
        ),
    )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self.host, self.port or (8883 if self.tls else 1883)

    @property
    def is_loopback(self) -> bool:
        """Whether the broker is on this machine; any name but localhost counts as remote."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class ProfileFiles:
    """Location of the drivers' sealed profiles."""

    directory: str = field(
        default="/var/lib/whodrives/profiles",
        metadata=knob(path_kind("a path"), "The directory of the sealed profiles."),
    )
    key_file: str = field(
        default="/var/lib/whodrives/profile-key",
        metadata=knob(
            path_kind("a path"),
            "The key that seals them: 32 bytes that only whodrives may read, outside that "
            "directory. Made at the first enrolment. A systemd credential named profile-key takes "
            "precedence.",
        ),
    )
    retention_days: int = field(
        default=365,
        metadata=knob(
            Leaf("0 to 36500", lambda value: is_integer(value, 0, 36_500)),
            "Days without recognition after which `drivers list` and `doctor` propose to erase a "
            "driver; nobody is erased automatically. 0: never.",
        ),
    )


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The models."""

    directory: str = field(
        default="/opt/whodrives/models",
        metadata=knob(path_kind("a path"), "The directory that tools/build_models filled."),
    )
    encoders: int = field(
        default=2,
        metadata=knob(
            integer_kind(1, 2),
            "How many speaker encoders compare a voice. The second one recognises more drivers at "
            "the same error rate; it needs its own model file, memory and processor time.",
        ),
    )


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """Unknown speakers who come back."""

    remember: bool = field(
        default=False,
        metadata=knob(
            SWITCH,
            "Whether to store, sealed, the voices of unknown speakers who come back, to offer "
            "them enrolment. Tell them first: they have not consented to anything yet.",
        ),
    )


def _part(section: type, meaning: str) -> dict[str, Any]:
    return knob(Section(section), meaning)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Relative paths have been joined to the file's directory."""

    vehicle: Vehicle = field(default_factory=Vehicle, metadata=_part(Vehicle, "The car."))
    sound: Sound = field(default_factory=Sound, metadata=_part(Sound, "The sound."))
    recognition: RecognitionSettings = field(
        default_factory=RecognitionSettings,
        metadata=_part(RecognitionSettings, "Error rates of recognition."),
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
