"""Starts daemons: the real one, on a fast clock, with stand-ins for the two models.

    python fork_server.py SCALE BEGAN_S [MUTANT]

Each line of standard input describes a daemon, as JSON; the answer is its process id. Importing
takes a second of real time, which is many of the fast clock's: so it is done once, here, and a
daemon is a fork. It is a process of its own, and dies of SIGKILL like any other.

The stand-ins: a block is speech when it is loud, and how loud says who speaks; so an embedding is
one-hot, and every verdict is right. What is tried here is the contract, and not voices.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from tools.lab import clock as clocks

FINGERPRINT = "fa" * 32
VOICES = 16
STALL_S = 2.5
"""So long a slow disk keeps the journal."""
STEP = 1500
"""Difference of level between two voices, in steps of a 16-bit sample."""


class Loud:
    """Satisfies `voice.types.VoiceActivity`: loud is speech."""

    def probabilities(self, blocks: Any) -> list[float]:
        """1 for each loud block."""
        return [float(np.abs(samples).max() > STEP / 2 / 32768) for samples in blocks]

    def reset(self) -> None:
        """There is nothing to forget."""


class OneHot:
    """Satisfies `voice.types.Encoder`: the level of the speech says whose it is."""

    fingerprint = FINGERPRINT

    def embed(self, samples: Any) -> Any:
        """A unit vector of shape (VOICES,)."""
        loud = np.abs(samples[np.abs(samples) > STEP / 2 / 32768])
        voice = round(float(np.median(loud)) * 32768 / STEP) if len(loud) else 0
        return embedding(voice)


def embedding(voice: int) -> Any:
    """The embedding of a voice: 1 to VOICES - 1; 0 is nobody's."""
    row = np.zeros(VOICES, np.float32)
    row[voice % VOICES] = 1.0
    return row


def stand_in() -> None:
    """Put the stand-ins where the models' loaders were."""
    from whodrives.cli import main  # noqa: PLC0415 - only after the clock
    from whodrives.service import wiring  # noqa: PLC0415
    from whodrives.voice.types import Calibration, CalibrationPoint  # noqa: PLC0415

    points = [
        CalibrationPoint(seconds, 20.0, -10.0, 0.0, -1.0, {"1/100": (5.0,), "1/1000": (7.0,)})
        for seconds in (1.0, 3.0, 6.0)
    ]
    calibration = Calibration(FINGERPRINT, np.zeros(VOICES, np.float32), points, 3.0, (3,), 0.5)
    loaders = {
        "load_calibration": calibration,
        "load_encoder": OneHot(),
        "load_vad": Loud(),
        "known_encoders": {FINGERPRINT: VOICES},
    }
    for name, loaded in loaders.items():
        for module in (main, wiring):
            if hasattr(module, name):
                setattr(module, name, lambda *_, loaded=loaded: loaded)


def hasten(scale: float) -> None:
    """Waits in the kernel follow the fast clock too."""
    from whodrives.mqtt import link  # noqa: PLC0415 - after the clock

    limit_ms = max(1, round(link.UNACKNOWLEDGED_S * 1000 / scale))

    def bound(_client: Any, _data: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)

    link._bound_unacknowledged = bound  # noqa: SLF001


def slow_disk(clock: clocks.Clock) -> None:
    """Let the journal wait for the disk while it is told to be slow."""
    from whodrives.store import journal  # noqa: PLC0415 - only after the clock

    honest = journal.Journal.keep

    def keep(self: journal.Journal, memory: Any, heard_s: float) -> None:
        honest(self, memory, heard_s)
        if clock.calendar is not None and clock.now_s() < clock.calendar.disk_slow_until_s:
            clocks.stall(clock, STALL_S)

    setattr(journal.Journal, "keep", keep)  # noqa: B010 - a method is not for assigning


def become(life: dict[str, str], clock: clocks.Clock) -> None:
    """Be the daemon until the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    clock.calendar = clocks.Calendar(Path(life["calendar"]))
    sound = os.open(life["sound"], os.O_RDONLY)
    log = os.open(life["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, descriptor in enumerate((sound, log, log)):
        os.dup2(descriptor, number)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.environ["RUNTIME_DIRECTORY"] = life["runtime"]
    from whodrives.cli import main  # noqa: PLC0415 - after the clock

    threading.Thread(target=clocks.watch_lateness, args=(clock,), daemon=True).start()
    code = 1
    try:
        code = main.main(["--config", life["config"], "run"]) or 0
    finally:
        os._exit(code)


def main() -> None:
    """Fork for every line."""
    clock = clocks.Clock(float(sys.argv[1]), float(sys.argv[2]))
    clocks.install(clock)
    # Imported once, by the parent: only what happens after the fork costs a daemon time.
    from tools.faults import mutants  # noqa: PLC0415

    stand_in()
    hasten(clock.scale)
    slow_disk(clock)
    if len(sys.argv) > 3:  # noqa: PLR2004 - the third argument
        mutants.MUTANTS[sys.argv[3]].apply()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line), clock)
        print(child, flush=True)


if __name__ == "__main__":
    main()
