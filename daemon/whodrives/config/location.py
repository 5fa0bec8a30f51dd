"""Files that people write: where the configuration lies, and text that can be read.

Owns the places of the configuration file. What is in it is `config`'s.
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
"""Text that comes through a pipe, as in `--passphrase-file <(...)`, is waited for so long."""


MOST_BYTES = 1024 * 1024
"""No text that people write is larger."""


def load_config(path: Path | None) -> Config:
    """The configuration of `path`, of the system, or a laptop's.

    Raises:
        ConfigError: the file cannot be read or has mistakes.
    """
    path = path or (SYSTEM_CONFIG if _is_there(SYSTEM_CONFIG) else None)
    loaded = codec.parse(read_text(path, ConfigError), str(path)) if path else _laptop()
    if loaded.mqtt.tls is not None:
        _refuse_shared(loaded.mqtt.tls)
    return loaded


def _refuse_shared(tls: schema.Tls) -> None:
    """Raise ConfigError for a key that others may use, or a certificate that others may replace.

    What systemd gives as a credential is guarded by it, and has an access list that looks like the
    rights of a group. A file that cannot be examined is the bus's to complain of.
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
    """The text with each whodrives command in it as it must be typed for this configuration."""
    if path is None:
        return text
    typed = f"whodrives --config {shlex.quote(str(path))} "
    return _COMMAND.sub(lambda _: typed, text)


_COMMAND = re.compile(r"(?<![\w/.-])whodrives (?=(?:enrol|drivers|run|doctor|replay|config)\b)")


def _is_there(path: Path) -> bool:
    """Whether something is there; also what this user must not look at, so that it is told."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _laptop() -> Config:
    """The defaults for somebody who tries whodrives in a checkout, without an installation."""
    data = _base("XDG_DATA_HOME", ".local/share")
    settings = _base("XDG_CONFIG_HOME", ".config")
    files = schema.ProfileFiles(
        directory=str(data / "whodrives/profiles"),
        key_file=str(settings / "whodrives/profile-key"),
    )
    return Config(profiles=files, models=schema.ModelFiles(directory=str(CHECKOUT / "models")))


def _base(variable: str, below_home: str) -> Path:
    """A base directory of the XDG specification, which says that relative ones are ignored."""
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
            f"the home folder cannot be determined: {said}; set HOME to a folder, or give "
            "--config FILE"
        )
    return home / below_home


def _bytes(path: Path) -> bytes:
    """What is in a file, or comes through a pipe in time; a little more than MOST_BYTES at most."""
    # Not blocking: nobody may ever write into a named pipe.
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
    """The file's text, at most MOST_BYTES of it; raises `mistake` if it cannot be read."""
    try:
        data = _bytes(path)
        if len(data) > MOST_BYTES:
            raise mistake(f"{path}: is larger than {MOST_BYTES // 1024} KiB; give the right file")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise mistake(f"{path}: is not text in UTF-8; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, PermissionError):
            mend = "run this as a user who may read it; the service's: sudo -u whodrives whodrives"
        else:
            mend = "give a file that can be read"
        raise mistake(f"{path}: {getattr(error, 'strerror', error)}; {mend}") from error
