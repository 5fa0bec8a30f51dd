"""sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*lines: str) -> None:
    """Tell systemd, if it started us (sd_notify(3)); silently nothing otherwise.

    A manager that does not read does not stop us: what it has no room for is lost.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.settimeout(0.0)
        out.sendto("\n".join(" ".join(line.split()) for line in lines).encode(), path)
