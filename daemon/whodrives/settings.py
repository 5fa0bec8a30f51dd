"""Files that people write: where the configuration lies, and text that can be read.

Owns the places of the configuration file. What is in it is `config`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from whodrives import config
from whodrives.config import Config
from whodrives.domain import ConfigError, WhodrivesError

CHECKOUT = Path(__file__).parents[2]
SYSTEM_CONFIG = Path("/etc/whodrives/whodrives.yaml")


def load_config(path: Path | None) -> Config:
    """The configuration of `path`, of the system, or a laptop's.

    Raises:
        ConfigError: the file cannot be read or has mistakes.
    """
    path = path or (SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else None)
    return config.parse(read_text(path, ConfigError), str(path)) if path else _laptop()


def _laptop() -> Config:
    """The defaults for somebody who tries whodrives in a checkout, without an installation."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = config.ProfileFiles(
        directory=str(data / "whodrives/profiles"),
        key_file=str(settings / "whodrives/profile-key"),
    )
    return Config(profiles=files, models=config.ModelFiles(directory=str(CHECKOUT / "models")))


def read_text(path: Path, mistake: type[WhodrivesError]) -> str:
    """The file's text; raises `mistake` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise mistake(f"{path}: {error.strerror}; give a file that can be read") from error
    except UnicodeDecodeError as error:
        raise mistake(f"{path}: is not text in UTF-8; save it as UTF-8") from error
