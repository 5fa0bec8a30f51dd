"""The configuration file's location, and reading text files that people write.

The file's content belongs to `codec` and `schema`.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
from contextlib import suppress
from pathlib import Path

from whodrives.config import codec, schema
from whodrives.config.schema import Config
from whodrives.errors import ConfigError, WhodrivesError

CHECKOUT = Path(__file__).parents[3]


SYSTEM_CONFIG = Path("/etc/whodrives/whodrives.yaml")


PIPE_S = 5.0
"""Timeout for text from a pipe, as in `--passphrase-file <(...)`."""


MOST_BYTES = 1024 * 1024
"""Maximum size of a text file."""


def load_config(path: Path | None) -> Config:
    """The configuration from `path`, else from the system's file, else the laptop's defaults.

    Raises:
        ConfigError: the file cannot be read or is invalid.
    """
    path = path or (SYSTEM_CONFIG if _is_there(SYSTEM_CONFIG) else None)
    loaded = codec.parse(read_text(path, ConfigError), str(path)) if path else _laptop()
    if loaded.mqtt.tls is not None:
        _refuse_shared(loaded.mqtt.tls)
    return loaded


def _refuse_shared(tls: schema.Tls) -> None:
    """Raise ConfigError for a key that others may use, or a certificate that others may replace.

    systemd protects its credentials, whose access list looks like permissions of a group. A file
    that cannot be examined is reported when the bus opens it.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    for name, given, refused, what, rights in (
        ("key", tls.key, 0o077, "others may use the key", "600"),
        ("certificate", tls.certificate, 0o002, "others may replace the certificate", "o-w"),
        ("ca", tls.ca, 0o002, "others may replace the authority's certificate", "o-w"),
    ):
        if given is None:
            continue
        with suppress(OSError):
            path = Path(given)
            if path.stat().st_mode & refused and not (
                credentials and path.resolve().is_relative_to(Path(credentials).resolve())
            ):
                raise ConfigError(
                    f"mqtt.tls.{name}: {what} {path}; run `chmod {rights} {shlex.quote(given)}`"
                )


def spelled(text: str, path: Path | None) -> str:
    """The text with `--config PATH` added to each whodrives command in it."""
    if path is None:
        return text
    typed = f"whodrives --config {shlex.quote(str(path))} "
    return _COMMAND.sub(lambda _: typed, text)


_COMMAND = re.compile(r"(?<![\w/.-])whodrives (?=(?:enrol|drivers|run|doctor|replay|config)\b)")


def _is_there(path: Path) -> bool:
    """Whether the path exists; True without permission to look, so that reading it reports that."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _laptop() -> Config:
    """The defaults for a checkout without an installation."""
    data = _base("XDG_DATA_HOME", ".local/share")
    settings = _base("XDG_CONFIG_HOME", ".config")
    files = schema.ProfileFiles(
        directory=str(data / "whodrives/profiles"),
        key_file=str(settings / "whodrives/profile-key"),
    )
    return Config(profiles=files, models=schema.ModelFiles(directory=str(CHECKOUT / "models")))


def _base(variable: str, below_home: str) -> Path:
    """A base directory of the XDG specification, which ignores relative ones."""
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():
        return given
    said = "HOME is not set, and this user has no entry in the password database"
    home = Path(os.environ.get("HOME", ""))
    if "HOME" in os.environ:
        said = f"HOME is {os.environ['HOME']!r}"
    else:
        with suppress(RuntimeError):
            home = Path.home()
    if not home.is_absolute():
        raise ConfigError(
            f"the home directory cannot be determined: {said}; set HOME to one, or give "
            "--config FILE"
        )
    return home / below_home


def _bytes(path: Path) -> bytes:
    """The content of a file or pipe; reads at most a little more than MOST_BYTES."""
    # Non-blocking: a named pipe may never have a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    data = b""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while len(data) <= MOST_BYTES:
            if not select.select([file], [], [], PIPE_S)[0]:
                raise OSError(errno.ETIMEDOUT, f"nothing came through the pipe in {PIPE_S:.0f} s")
            part = file.read(MOST_BYTES)
            if not part:
                break
            data += part
    return data


def read_text(path: Path, mistake: type[WhodrivesError]) -> str:
    """The file's UTF-8 text; raises `mistake` if it cannot be read or exceeds MOST_BYTES."""
    try:
        data = _bytes(path)
        if len(data) > MOST_BYTES:
            raise mistake(f"{path}: is larger than {MOST_BYTES // 1024} KiB; give the right file")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise mistake(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        if isinstance(error, PermissionError):
            fix = "run this as a user who may read it; the service's: sudo -u whodrives whodrives"
        else:
            fix = "give a file that can be read"
        raise mistake(f"{path}: {getattr(error, 'strerror', error)}; {fix}") from error
