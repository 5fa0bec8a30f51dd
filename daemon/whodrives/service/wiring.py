"""Builds the parts of the daemon from a configuration."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from whodrives.config.schema import Config
from whodrives.core.engine import Recognizer
from whodrives.enrolment.session import EnrolmentSession
from whodrives.errors import ProfileError
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.store.journal import Journal
from whodrives.store.profiles import ProfileStore
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Household


def load_policy(config: Config) -> Policy:
    """The configured promise, with the encoder's calibration.

    Raises:
        ModelError: the calibration is missing or does not fit the encoder.
    """
    return Policy(load_calibration(Path(config.models.directory)), config.recognition.strangers)


def load_recognizer(config: Config) -> Recognizer:
    """The recognizer with the configured models and promise.

    Raises:
        ModelError: a model file is missing, changed or does not fit its calibration.
    """
    return load_hearing(config, load_policy(config))[0]


def load_hearing(config: Config, policy: Policy) -> tuple[Recognizer, EnrolmentSession]:
    """What hears who drives, and what hears who enrols, with one encoder between them."""
    models = Path(config.models.directory)
    encoder = load_encoder(models)
    recognizer = Recognizer(load_vad(models), encoder, policy)
    return recognizer, EnrolmentSession(lambda: load_vad(models), encoder, policy)


def open_store(config: Config) -> ProfileStore:
    """The configured profiles, for the configured encoder and car.

    Raises:
        ModelError: there is no encoder to bind them to.
    """
    calibration = load_calibration(Path(config.models.directory))
    return ProfileStore(
        directory=Path(config.profiles.directory),
        key_file=Path(config.profiles.key_file),
        encoder=calibration.encoder,
        limits=config.vehicle.signals,
        vehicle=config.vehicle.id,
        dimension=calibration.mean.size,
    )


def household(store: ProfileStore, at_s: float) -> Household:
    """Everybody who is enrolled, and what is wrong with the profiles that cannot be used.

    A store that cannot be read at all is a household of nobody, with the reason.
    """
    try:
        loaded = store.load()
    except ProfileError as error:
        return Household(at_s, (), (str(error),))
    return Household(at_s, tuple(stored.profile for stored in loaded.profiles), loaded.problems)


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
