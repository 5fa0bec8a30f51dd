"""Authentication at the broker: TLS files, user name and password."""

from __future__ import annotations

import os
import shlex
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

from whodrives.config.schema import Mqtt, Tls
from whodrives.errors import BusError

CREDENTIAL = "mqtt-password"


MAX_PASSWORD_BYTES = 65_535
"""Maximum length of a password in MQTT."""


@dataclass(frozen=True, slots=True)
class Access:
    """Credentials for the broker.

    Attributes:
        tls: TLS context of the connection; None for plain MQTT.
        username: the user to log in as, if any.
        password: that user's password; never shown.
        advice: what to check when the broker refuses the connection.
    """

    tls: ssl.SSLContext | None
    username: str | None
    password: str | None = field(repr=False)
    advice: str


def broker_access(settings: Mqtt) -> Access:
    """Load the credentials; plain MQTT is allowed only to a broker on this machine.

    Raises:
        BusError: a file is missing, invalid or readable by others; names the field and the fix.
    """
    try:
        settings.host.encode("idna")
    except UnicodeError:
        raise BusError(f"mqtt.host: {settings.host!r} is not a host name; fix it") from None
    if settings.tls is None and not settings.is_loopback:
        said = f"plain MQTT to {settings.host} can be read and forged on the way"
        raise BusError(f"mqtt.tls: {said}; give tls, or host 127.0.0.1")
    tls = _context(settings.tls) if settings.tls is not None else None
    if settings.username is None:
        certified = settings.tls is not None
        advice = "is mqtt.tls.certificate a certificate of a user of this broker?"
        without = "it may want a user: give mqtt.username and mqtt.password_file"
        return Access(tls, None, None, advice if certified else without)
    source, password = _password(settings)
    advice = f"check mqtt.username ({settings.username}) and the password in {source}"
    return Access(tls, settings.username, password, advice)


def _password(settings: Mqtt) -> tuple[Path, str]:
    """The password's path and the password; a systemd credential takes precedence."""
    given = Path(os.environ.get("CREDENTIALS_DIRECTORY", os.devnull)) / CREDENTIAL
    if given.exists():
        path = given
    elif settings.password_file is not None:
        path = Path(settings.password_file)
    else:
        said = "is missing for mqtt.username"
        fix = f"give a file, or a systemd credential named {CREDENTIAL}"
        raise BusError(f"mqtt.password_file: {said}; {fix}")
    try:
        raw = _read_private(path)
        password = raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        said = error.strerror or "cannot be read"
        raise BusError(
            f"mqtt.password_file: {path}: {said}; give a file that can be read"
        ) from error
    except UnicodeDecodeError:
        raise BusError(f"mqtt.password_file: {path}: is not UTF-8 text; save it as UTF-8") from None
    if not password or "\n" in password or len(raw) > MAX_PASSWORD_BYTES:
        said = "does not contain one line with a password"
        raise BusError(f"mqtt.password_file: {path}: {said}; write only the password into it")
    return path, password


def _read_private(path: Path) -> bytes:
    """A regular file's first bytes; BusError if others may read or change it.

    The group may read it, so that an administrator can give the file to the service's group.
    """
    # Non-blocking: a named pipe may never have a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise BusError(f"mqtt.password_file: {path}: is not a regular file; give one")
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise BusError(
                f"mqtt.password_file: {path}: others may read or write it; run: chmod g-w,o= "
                f"{shlex.quote(str(path))}"
            )
        return file.read(MAX_PASSWORD_BYTES + 1)


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ValueError) as error:
        raise BusError(f"mqtt.tls.ca: {tls.ca}: {error}; give a PEM file of the CA") from error
    if tls.certificate is None or tls.key is None:
        return context
    try:
        # An empty password: OpenSSL would ask on the terminal for an encrypted key's.
        context.load_cert_chain(tls.certificate, tls.key, lambda: b"")
    except (OSError, ValueError) as error:
        files = f"{tls.certificate} with {tls.key}"
        raise BusError(
            f"mqtt.tls.certificate: {files}: {error}; give our certificate and its key, PEM"
        ) from error
    return context
