"""A TCP proxy that is a bad network: it delays, cuts, and holds what it should pass on."""

from __future__ import annotations

import asyncio
import contextlib
import random


class Proxy:
    """Between clients on a port of its own and a server; both on loopback.

    Attributes:
        port: where it listens.
        delay_s: each chunk is delayed by up to so much, in the world's seconds; order is kept
            within a connection, and so not between two of them.
        newest: the number of the newest connection that is open; None while none is.
    """

    def __init__(self, target: int, rng: random.Random) -> None:
        self.port = 0
        self.delay_s = 0.0
        self._numbers: set[int] = set()
        self._made = 0
        self._target = target
        self._rng = rng
        self._flows = asyncio.Event()
        self._flows.set()
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def newest(self) -> int | None:
        """See the class: a daemon that was thrown out only knocks, and goes on in another one."""
        return max(self._numbers, default=None)

    @property
    def flows(self) -> bool:
        """Whether it passes on what it gets."""
        return self._flows.is_set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """End every connection, and let none be made until `restore`; what was held is lost."""
        self._open = False
        for writer in self._writers:
            writer.transport.abort()
        self._flows.set()

    def hold(self) -> None:
        """Keep every connection and pass nothing on: both ends take it for open."""
        self._flows.clear()

    def restore(self) -> None:
        """Pass on what was held, in order, and let connections be made."""
        self._open = True
        self._flows.set()

    def close(self) -> None:
        """End it."""
        self.cut()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        # In the order in which they came: to reach the broker may take one longer than the next.
        self._made += 1
        number = self._made
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there[1]}
        self._numbers.add(number)
        try:
            # At the end of everything asyncio cancels us, and would say so at length.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))
        finally:
            self._writers -= {writer, there[1]}
            self._numbers.discard(number)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.delay_s:
                    await asyncio.sleep(self._rng.uniform(0, self.delay_s))
                await self._flows.wait()
                if writer.transport.is_closing():
                    break
                writer.write(data)
                await writer.drain()
        writer.transport.abort() if not self._open else writer.close()
