"""One car, one daemon: what keeps a second one from starting on this machine.

A claim is an abstract Unix socket (unix(7)) that is bound for the daemon's life. The kernel frees
it with the process, however that ends, so nothing stale can block a restart; and it is the same for
every user and every runtime folder. Two names are claimed: the car at its broker, and the store of
profiles. A daemon on another machine, or in another network namespace, is not seen here: there the
broker tells (`mqtt.takeover`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import socket
import struct
from collections.abc import Sequence

from whodrives.config.schema import Config
from whodrives.errors import BusyError

_PENDING = 16
"""How many others may ask at once who holds the claim."""


_ANSWER_S = 2.5


_ANSWER_BYTES = 8192


class Claim:
    """The names that this process holds; none at first."""

    def __init__(self) -> None:
        self._held: dict[str, socket.socket] = {}

    def take(self, config: Config) -> None:
        """Claim the configuration's car and store, besides what is held; both or neither.

        Raises:
            BusyError: another process holds one of them; the text says which process.
        """
        new: dict[str, socket.socket] = {}
        try:
            for name, what in _names(config).items():
                if name not in self._held:
                    new[name] = _bound(name, what)
        except BusyError:
            for bound in new.values():
                bound.close()
            raise
        self._held |= new

    def keep_only(self, config: Config) -> None:
        """Let go of what another configuration claimed."""
        for name in self._held.keys() - _names(config).keys():
            self._held.pop(name).close()

    def close(self) -> None:
        """Let go of everything."""
        while self._held:
            self._held.popitem()[1].close()

    def tend(self, reasons: Sequence[str] = ()) -> None:
        """Answer those who asked who holds the claim. To be called every second or so.

        Args:
            reasons: why the daemon cannot do its work, as in `status`; told to its user and root.
        """
        for held in self._held.values():
            with contextlib.suppress(OSError):
                while True:
                    asking = held.accept()[0]
                    with contextlib.suppress(OSError), asking:
                        if _peer(asking)[1] in (0, os.getuid()):
                            asking.send("\n".join(reasons).encode()[:_ANSWER_BYTES])


def ask(config: Config) -> tuple[str, tuple[str, ...]]:
    """Which process serves the configuration's car or store, and why it cannot do its work.

    Returns:
        The process in words, empty if none serves it; the reasons, none if all is well or it does
        not tell us.
    """
    for name in _names(config):
        if who := _holder(name):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
                asked.settimeout(_ANSWER_S)
                with contextlib.suppress(OSError):
                    asked.connect(name)
                    told = asked.recv(_ANSWER_BYTES).decode(errors="replace")
                    return who, tuple(told.splitlines())
            return who, ()
    return "", ()


def holder(config: Config) -> str:
    """Which process serves the configuration's car or store, in words; empty if none does."""
    return next((who for name in _names(config) if (who := _holder(name))), "")


def _names(config: Config) -> dict[str, str]:
    """The sockets' names, and what each stands for in words."""
    host, port = config.mqtt.address
    broker = "loopback" if config.mqtt.is_loopback else host.lower()
    store = os.path.realpath(config.profiles.directory)
    return {
        _name("car", config.vehicle.id, broker, str(port)): (
            f"the car {config.vehicle.id!r} at {host}:{port}"
        ),
        _name("store", store): f"the profiles in {store}",
    }


def _name(*parts: str) -> str:
    # A digest, because a socket's name is short.
    return "\0whodrives-" + hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()


def _bound(name: str, what: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.bind(name)
        made.listen(_PENDING)
    except OSError as error:
        made.close()
        if error.errno != errno.EADDRINUSE:
            raise BusyError(f"cannot claim {what}: {error.strerror}") from error
        who = _holder(name) or "another process"
        raise BusyError(
            f"whodrives runs already: {who} serves {what}; stop that one first"
        ) from None
    return made


def _holder(name: str) -> str:
    """The process that listens, in words; empty if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asked:
        try:
            asked.connect(name)
        except BlockingIOError:
            return "another process"
        except OSError:
            return ""
        pid, uid = _peer(asked)
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return f"process {pid} of user {user}"


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end."""
    size = struct.calcsize("3i")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", found)
    return pid, uid
