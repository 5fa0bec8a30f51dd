"""Builds the daemon and its parts from a configuration; the only place that constructs adapters.

What only the daemon needs (MQTT, sound) is imported when it is built: other commands start faster.
"""

from __future__ import annotations

import contextlib
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from whodrives.audio.blocks import AudioBlock, SourceState
from whodrives.config.schema import MICROPHONE, PIPE, Config
from whodrives.core.engine import Recognizer
from whodrives.enrolment.session import EnrolmentSession
from whodrives.errors import ConfigError, ProfileError
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import known_encoders, load_encoder
from whodrives.models.vad import load_vad
from whodrives.store.journal import Commands, Journal
from whodrives.store.profiles import ProfileStore
from whodrives.voice.decision import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from whodrives.service.claim import Claim
    from whodrives.service.daemon import Daemon, Source
    from whodrives.service.inbox import Inbox
    from whodrives.service.log import LogFilter
    from whodrives.service.signals import SignalFlags

log = logging.getLogger(__name__)


def build_daemon(
    config: Config,
    read: Callable[[], Config],
    flags: SignalFlags,
    claim: Claim,
    log_limit: LogFilter,
    *,
    spelled: Callable[[str], str] = str,
) -> Daemon:
    """The daemon for a configuration.

    Args:
        config: everything that can be set; its paths are ready to use.
        read: gives the configuration as it is now, when it is to be read again.
        flags: what the process is told by signals.
        claim: what keeps another daemon from serving this car; the car is claimed already.
        log_limit: bounds the log.
        spelled: adds the configuration to the commands in a text.

    Raises:
        ModelError, BusError, SourceError: what it needs cannot work as configured.
    """
    from whodrives.mqtt.bus import Bus  # noqa: PLC0415
    from whodrives.mqtt.encode import Vitals  # noqa: PLC0415
    from whodrives.service.control import ControlSocket, socket_name  # noqa: PLC0415
    from whodrives.service.daemon import Daemon  # noqa: PLC0415
    from whodrives.service.effects import Effects  # noqa: PLC0415
    from whodrives.service.inbox import Inbox  # noqa: PLC0415
    from whodrives.service.learning import Learning  # noqa: PLC0415

    inbox = Inbox()
    source = build_source(config, inbox)
    policy = load_policy(config)
    engine, enrolment = load_hearing(config, policy)
    store = open_store(config)
    journal = open_journal(config, store)
    bus = Bus(
        config.mqtt,
        config.vehicle,
        inbox.put,
        lambda: Vitals(
            requests=engine.live_requests,
            backlog=inbox.qsize(),
            encoder=engine.fingerprint,
            silent_s=engine.silent_s,
        ),
        Commands(runtime_folder(config) / f"commands-{config.vehicle.id}.json"),
    )
    control = ControlSocket(
        runtime_folder(config) / socket_name(config.vehicle.id),
        config.vehicle,
        inbox.put,
        flags.renew,
        shared="RUNTIME_DIRECTORY" in os.environ,
        evidence=config.mqtt.evidence,
    )
    learning = Learning(store, policy.calibration, remember_guests=config.guests.remember)
    effects = Effects(
        bus=bus,
        control=control,
        store=store,
        journal=journal,
        learning=learning,
        calibration=policy.calibration,
        signals=config.vehicle.signals,
        put=inbox.put_consequence,
        spelled=spelled,
    )

    def follower() -> Daemon | None:
        changed = read()
        if changed == config:
            return None
        if {config.sound.source, changed.sound.source} != {MICROPHONE}:
            raise ConfigError(
                "a file or a pipe is heard from its start: restart whodrives to change settings"
            )
        claim.take(changed)
        return build_daemon(changed, read, flags, claim, log_limit, spelled=spelled)

    return Daemon(
        inbox=inbox,
        source=source,
        engine=engine,
        enrolment=enrolment,
        effects=effects,
        bus=bus,
        control=control,
        journal=journal,
        flags=flags,
        log_limit=log_limit,
        keep_claim=lambda: claim.keep_only(config),
        tend_claim=claim.tend,
        follower=follower,
    )


def build_source(config: Config, inbox: Inbox) -> Source:
    """The configured microphone, file or pipe, as a producer into the inbox.

    Raises:
        SourceError: the recording cannot be read, or nothing is piped in.
    """
    from whodrives.audio.files import read_file  # noqa: PLC0415
    from whodrives.audio.framing import paced  # noqa: PLC0415
    from whodrives.audio.microphone import Microphone  # noqa: PLC0415
    from whodrives.audio.pipe import read_pipe  # noqa: PLC0415
    from whodrives.audio.supervisor import SupervisedMicrophone  # noqa: PLC0415
    from whodrives.service.channels import taken_channel  # noqa: PLC0415
    from whodrives.service.recording import Pipe, Recording  # noqa: PLC0415

    sound = config.sound
    if sound.source == MICROPHONE:

        def put_block(item: AudioBlock | SourceState) -> None:
            inbox.put_sound(item)
            if isinstance(item, AudioBlock):
                microphone.taken()  # the inbox bounds what waits

        microphone = Microphone(sound.device, put_block)
        return SupervisedMicrophone(microphone, inbox.put_sound)
    put = partial(inbox.put_sound, lossless=True)
    if sound.source == PIPE:
        pipe = Pipe(inbox.rest, put)
        # A live pipe keeps time itself; by our clock it would fall behind little by little.
        blocks = paced(read_pipe(pipe, sound.rate_hz, sound.channels), sleep=lambda _: None)
    else:
        path = Path(sound.source)
        channel = taken_channel(path, config)
        if channel.of > 1:
            log.info("event=source file=%r reason=%r", sound.source, str(channel))
        blocks = paced(read_file(path, channel=channel.channel))
    return Recording(blocks, put, inbox.wake)


def load_policy(config: Config) -> Policy:
    """The configured promise, with the encoder's calibration.

    Raises:
        ModelError: the calibration is missing or does not fit the encoder.
    """
    calibration = load_calibration(Path(config.models.directory), config.models.encoders)
    return Policy(calibration, config.recognition.strangers)


def load_recognizer(config: Config) -> Recognizer:
    """The recognizer with the configured models and promise.

    Raises:
        ModelError: a model file is missing, changed or does not fit its calibration.
    """
    return load_hearing(config, load_policy(config))[0]


def load_hearing(config: Config, policy: Policy) -> tuple[Recognizer, EnrolmentSession]:
    """What hears who drives, and what hears who enrols; they share the encoder."""
    models = Path(config.models.directory)
    encoder = load_encoder(models, config.models.encoders)
    recognizer = Recognizer(load_vad(models), encoder, policy)
    return recognizer, EnrolmentSession(lambda: load_vad(models), encoder, policy)


def open_store(config: Config) -> ProfileStore:
    """The configured profiles, for the configured encoders and car.

    Raises:
        ModelError: there is no encoder to bind them to.
    """
    (encoder, dimension), *others = known_encoders(
        Path(config.models.directory), config.models.encoders
    ).items()
    return ProfileStore(
        directory=Path(config.profiles.directory),
        key_file=Path(config.profiles.key_file),
        encoder=encoder,
        dimension=dimension,
        others=dict(others),
        limits=config.vehicle.signals,
        vehicle=config.vehicle.id,
    )


def open_journal(config: Config, store: ProfileStore) -> Journal:
    """Where this configuration's daemon remembers its trip."""

    def key() -> bytes | None:
        with contextlib.suppress(ProfileError):  # an empty store has no key yet
            return store.derived_key("trip")
        return None

    return Journal(runtime_folder(config) / f"trip-{config.vehicle.id}.json", key)


def runtime_folder(config: Config) -> Path:
    """Systemd's runtime directory; beside the profiles' key if a person started the daemon."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given) if given else Path(config.profiles.key_file).parent
