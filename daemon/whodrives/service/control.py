"""The control socket: how a terminal on this machine speaks with the running daemon.

A Unix socket in the runtime folder. Its messages are those of docs/mqtt.md, one JSON object a line:
`{"topic": "command/enrol", "payload": {...}}`. A client gives the commands of a head unit, which
are decoded and obeyed as those are, and `{"topic": "reload"}`. It hears everything that the daemon
publishes, beginning with the present `status`, `driver` and `guest`. It cannot report anything of
the car.

Whoever can write to the socket is trusted with the head unit's commands: the daemon's user and
root, and the group of a daemon that systemd started (unix(7): the socket's file mode).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from whodrives import clock
from whodrives.adaptation.types import Guests
from whodrives.config.schema import Config, Vehicle
from whodrives.core.events import Event, Health, Input, RefusedCommand
from whodrives.errors import BusyError, PayloadError
from whodrives.mqtt.decode import CommandError, Decoder
from whodrives.mqtt.encode import encode
from whodrives.mqtt.topics import root
from whodrives.service.claim import holder
from whodrives.service.wiring import runtime_folder
from whodrives.trip.types import DriverState

log = logging.getLogger(__name__)


RELOAD = "reload"
"""The topic that makes the daemon read configuration and profiles again."""


MOST_CLIENTS = 8
"""When one more comes, the oldest is closed."""


MOST_LINE_BYTES = 16 * 1024
"""A client whose line is longer is closed."""


MOST_WAITING_BYTES = 256 * 1024
"""A client that does not read so much is closed: it costs the daemon no more than that."""


ANSWER_S = 5.0
"""How long a client waits for the daemon's first message."""


class _Client:
    """A connection: what was read of an incomplete line, and what waits to be sent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.read = b""
        self.waiting: deque[bytes] = deque()
        self.waiting_bytes = 0

    def queue(self, line: bytes) -> bool:
        """Let a line wait to be sent; False if too much waits."""
        self.waiting.append(line)
        self.waiting_bytes += len(line)
        return self.waiting_bytes <= MOST_WAITING_BYTES

    def send(self) -> None:
        """Send what the connection takes; raises OSError when it is gone."""
        while self.waiting:
            line = self.waiting[0]
            with contextlib.suppress(BlockingIOError):
                sent = self.connection.send(line)
                self.waiting_bytes -= sent
                if sent == len(line):
                    self.waiting.popleft()
                    continue
                self.waiting[0] = line[sent:]
            return


class ControlSocket:
    """The daemon's end. One thread waits for the clients; `tell` never waits for any.

    Args:
        path: of the socket.
        vehicle: the car, for the messages.
        put: takes decoded commands.
        reload: makes the daemon read configuration and profiles again.
        shared: whether the group may use the socket, too.
        evidence: as in `Mqtt.evidence`.
    """

    def __init__(
        self,
        path: Path,
        vehicle: Vehicle,
        put: Callable[[Input], None],
        reload: Callable[[], None],
        *,
        shared: bool = False,
        evidence: bool = False,
    ) -> None:
        self._path = path
        self._vehicle = vehicle
        self._put = put
        self._reload = reload
        self._mode = 0o660 if shared else 0o600
        self._evidence = evidence
        # The peer is authenticated by the kernel, as TLS does it for the broker's clients.
        self._decoder = Decoder(vehicle.id, secure=True)
        self._states: dict[type[Event], Event] = {}
        self._clients: list[_Client] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._ringer: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen. A socket that cannot be made is logged: the daemon does its work without it."""
        try:
            self._listener = _listening(self._path, self._mode)
        except OSError as error:
            log.warning("event=no_control path=%r reason=%r", str(self._path), error.strerror)
            return
        bell, self._ringer = socket.socketpair()
        self._ringer.settimeout(0)
        served = self._listener, bell
        self._thread = threading.Thread(target=self._serve, args=served, name="control")
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        """Close all connections, and remove the socket."""
        if self._thread is None:
            return
        self._listener = None
        with self._lock:
            self._ring()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def tell(self, event: Event) -> None:
        """Let all clients know of an event, as the bus publishes it; never waits."""
        if isinstance(event, Health | DriverState | Guests):
            self._states[type(event)] = event
        with self._lock:
            if not self._clients:
                return
            line = self._line(event)
            if line:
                for client in [each for each in self._clients if not each.queue(line)]:
                    self._clients.remove(client)  # its thread closes it
            self._ring()

    def _line(self, event: Event) -> bytes:
        """An event as a line; empty if it is not for the bus."""
        epoch_s = time.time() - clock.now_s()
        try:
            message = encode(event, self._vehicle, epoch_s, evidence=self._evidence)
        except PayloadError:
            return b""  # the bus logs it
        if message is None:
            return b""
        topic = message.topic.removeprefix(root(self._vehicle.id) + "/")
        return _packed(topic, json.loads(message.payload) if message.payload else None)

    # --- on the thread ----------------------------------------------------------------------------

    def _serve(self, listener: socket.socket, bell: socket.socket) -> None:
        with listener, bell, selectors.DefaultSelector() as selector:
            selector.register(bell, selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            known: dict[_Client, int] = {}
            while self._listener is not None:
                for key, ready in selector.select():
                    if key.fileobj is bell:
                        bell.recv(4096)
                    elif key.fileobj is listener:
                        self._accept(listener)
                    else:
                        self._attend(key.data, ready)
                self._follow(selector, known)
            for client in known:
                client.connection.close()
            with self._lock:
                self._clients.clear()
                if self._ringer is not None:
                    self._ringer.close()
                self._ringer = None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection = listener.accept()[0]
            connection.settimeout(0)
            client = _Client(connection)
            with self._lock:
                for event in self._states.values():
                    client.queue(self._line(event))
                del self._clients[: max(0, len(self._clients) + 1 - MOST_CLIENTS)]
                self._clients.append(client)

    def _follow(self, selector: selectors.BaseSelector, known: dict[_Client, int]) -> None:
        """Let the selector know the clients as they are now, and what is awaited of each."""
        with self._lock:
            present = {client: bool(client.waiting) for client in self._clients}
        for client in known.keys() - present.keys():
            del known[client]
            selector.unregister(client.connection)
            client.connection.close()
        for client, waiting in present.items():
            awaited = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
            if client not in known:
                selector.register(client.connection, awaited, client)
            elif known[client] != awaited:
                selector.modify(client.connection, awaited, client)
            known[client] = awaited

    def _attend(self, client: _Client, ready: int) -> None:
        """Send and read what can be; a client that is gone, or sends no lines, is closed."""
        try:
            if ready & selectors.EVENT_WRITE:
                with self._lock:
                    client.send()
            if ready & selectors.EVENT_READ:
                self._read(client)
        except (OSError, ValueError):
            with self._lock, contextlib.suppress(ValueError):
                self._clients.remove(client)

    def _read(self, client: _Client) -> None:
        """Take what came; raises ValueError at the end, and at a line without end."""
        new = client.connection.recv(MOST_LINE_BYTES)
        *lines, client.read = (client.read + new).split(b"\n")
        for line in lines:
            if answer := self._taken(line):
                with self._lock:
                    client.queue(answer)
        if not new or len(client.read) > MOST_LINE_BYTES:
            raise ValueError("the end, or no lines")

    def _taken(self, line: bytes) -> bytes:
        """Take a client's line; the answer, if nothing else answers it."""
        try:
            said = json.loads(line)
            topic, payload = str(said["topic"]), said.get("payload")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return _error('a line is a JSON object: {"topic": "command/...", "payload": {...}}')
        if topic == RELOAD:
            self._reload()
            return _packed(RELOAD, {})
        if not topic.startswith("command/"):
            return _error(f"{topic[:64]!r} is not command/... or {RELOAD}")
        now_s = clock.now_s()
        whole = f"{root(self._vehicle.id)}/{topic}"
        try:
            item = self._decoder.decode(whole, json.dumps(payload).encode(), now_s, time.time())
        except CommandError as error:
            self._put(RefusedCommand(now_s, error.command, error.reason))
        except PayloadError as error:
            return _error(str(error))
        else:
            if item is not None:
                self._put(item)
        return b""

    def _ring(self) -> None:
        """End the thread's wait, with the lock held; a bell that is full rings already."""
        with contextlib.suppress(BlockingIOError):
            if self._ringer is not None:
                self._ringer.send(b"\0")


class Control:
    """A client's end of the control socket.

    Args:
        connection: connected.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read = b""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def send(self, topic: str, payload: Mapping[str, Any] | None = None) -> None:
        """Send a command.

        Raises:
            BusyError: the daemon has ended.
        """
        try:
            self._connection.settimeout(ANSWER_S)
            self._connection.sendall(_packed(topic, payload))
        except OSError as error:
            raise BusyError(f"{_ENDED} ({error.strerror or error})") from error

    def reload(self) -> None:
        """Have the daemon read configuration and profiles again; returns once it was told.

        Raises:
            BusyError: the daemon has ended, or does not answer.
        """
        self.send(RELOAD)
        if not any(topic == RELOAD for topic, _ in self.messages(ANSWER_S)):
            raise BusyError("the running daemon does not answer; look into its log")

    def messages(self, limit_s: float) -> Iterator[tuple[str, Any]]:
        """Topic and payload of what the daemon says, until nothing came for `limit_s` seconds.

        Raises:
            BusyError: the daemon has ended.
        """
        while True:
            *lines, self._read = self._read.split(b"\n")
            for line in lines:
                said = json.loads(line)
                yield said["topic"], said["payload"]
            try:
                self._connection.settimeout(limit_s)
                new = self._connection.recv(64 * 1024)
            except TimeoutError:
                return
            except OSError as error:
                raise BusyError(f"{_ENDED} ({error.strerror})") from error
            if not new:
                raise BusyError(_ENDED)
            self._read += new


_ENDED = "the running daemon ended; look into its log, then start again"


def connect(config: Config) -> Control | None:
    """Connect with the daemon that serves this configuration; None if none runs.

    Raises:
        BusyError: one runs and cannot be spoken with; the text says why, and the fix.
    """
    path = _found(config)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            connection.settimeout(ANSWER_S)
            connection.connect(name)
    except OSError as error:
        connection.close()
        who = holder(config)
        if not who:
            return None
        if error.errno in {errno.EACCES, errno.EPERM}:
            fix = "run this command as that user, or as root"
        elif error.errno in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR}:
            fix = "run this command with the daemon's configuration, or stop the daemon first"
        else:
            fix = "stop the daemon first"
        said = f"{who} serves this car, and {path} cannot be used: {error.strerror or error}"
        raise BusyError(f"{said}; {fix}") from error
    return Control(connection)


def socket_name(vehicle: str) -> str:
    """The name of the socket in the runtime folder of the daemon of this vehicle."""
    return f"control-{vehicle}.sock"


def _found(config: Config) -> Path:
    """Where the daemon of this configuration listens.

    A terminal does not have the runtime folder of the service's environment: it looks there, too.
    """
    name = socket_name(config.vehicle.id)
    ours, services = runtime_folder(config) / name, _SERVICES / name
    with contextlib.suppress(OSError):
        if not ours.exists() and services.exists():
            return services
    return ours


_SERVICES = Path("/run/whodrives")
"""The runtime folder of systemd/whodrives.service."""


def _packed(topic: str, payload: object) -> bytes:
    text = json.dumps({"topic": topic, "payload": payload}, separators=(",", ":"))
    return text.encode() + b"\n"


def _error(reason: str) -> bytes:
    return _packed("error", {"reason": reason})


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of a path for bind(2) and connect(2), which take 107 bytes at most."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _listening(path: Path, mode: int) -> socket.socket:
    """A socket that listens at a path; one that an earlier daemon left there is replaced.

    The claim makes sure that no other daemon listens there now.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _short(path) as name:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            # Between bind and chmod nobody else may connect.
            before = os.umask(0o177)
            try:
                listener.bind(name)
            finally:
                os.umask(before)
            path.chmod(mode)
            listener.listen(MOST_CLIENTS)
    except OSError:
        listener.close()
        raise
    return listener
