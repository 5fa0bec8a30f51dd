"""The soak: a thousand hours of one daemon, with faults, and what it holds on to in the end.

    python tools/soak --hours 1000 --out tools/soak/results/DATE.json

Each hour somebody drives for a minute, and the rest of it passes at once. What is real: the daemon,
a process of its own with its models, profiles and journal; mosquitto; the sound, which comes
through a pipe as fast as the daemon takes it. Its clocks are fast, and jump
(tools/faults/clock.py).

In most hours something goes wrong (hours.py). In the first quarter the daemon is killed and
stopped, too; through the rest one daemon lives. After each hour its memory, threads and open files
are measured. What it recognised is compared with what an undisturbed recognizer hears in the same
sound, with the same profiles: it has to be the same, to the last digit that is logged.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from tools.lab.clock import (
    Calendar,
    Clock,
)
from tools.soak.findings import (
    Life,
    Outcome,
)
from tools.soak.hours import (
    SHORT_LIVES,
    Hour,
    Hours,
)
from tools.soak.rig import (
    Broker,
    Car,
    Daemon,
    Heard,
    wait_until,
)
from whodrives.audio.blocks import (
    BLOCK_SAMPLES,
    SourceHealth,
    SourceState,
)
from whodrives.audio.pipe import read_pipe
from whodrives.cli import demo
from whodrives.config.location import load_config
from whodrives.config.schema import Config
from whodrives.core.engine import Recognizer
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.service.household import household
from whodrives.service.wiring import load_policy, open_store
from whodrives.voice.types import Recognition

ROOT = Path(__file__).parents[2]
HOUR_S = 3600.0
SCALE = 20.0
HANG_S = 0.3
"""So long, of the world's time, something stands still or is away."""

EVERY_HOURS = 25
BLOCK_BYTES = 2 * BLOCK_SAMPLES
STRAY_MESSAGES = 40
RSS_MB = 1e6


class Soak:
    """The stage and what happens on it.

    Args:
        folder: an empty one.
        seed: the same seed gives the same hours.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._ends = contextlib.ExitStack()
        self._broker = Broker(folder)
        self._ends.callback(self._broker.kill)
        self._file = demo.write_config(folder, self._broker.port)
        settings = yaml.safe_load(self._file.read_text()) | {"guests": {"remember": True}}
        self._file.write_text(yaml.safe_dump(settings))
        drive = demo.load_drive(demo.ROOT / "profiles/demo")
        demo.enrol(self._file, drive, Console(quiet=True))
        self._config: Config = load_config(self._file)
        self._bad_profile = folder / "profiles" / "d-0bad0bad.profile"
        self._store = open_store(self._config)
        self._policy = load_policy(self._config)
        self._models = Path(self._config.models.directory)
        self._encoder = load_encoder(self._models)
        voices = drive.folder / "voices"
        drivers = {
            member["voice"]: sorted(
                path.name
                for path in (voices / member["voice"]).glob("*.opus")
                if path.name not in member["enrol"]
            )
            for member in drive.script["household"]
        }
        self._hours = Hours(voices, drivers, seed)
        self._calendar = Calendar(folder / "calendar")
        self._clock = Clock(SCALE, calendar=self._calendar)
        self._car = Car(self._broker.port, self._clock)
        self._ends.callback(self._car.close)
        self._daemon = Daemon(folder, self._file, self._clock)
        self._ends.callback(self._daemon.stop)
        self.outcome = Outcome()

    def close(self) -> None:
        """End everything."""
        self._ends.close()

    def hour(self, number: int, *, ends: bool) -> None:
        """Live through one hour."""
        hour = self._hours.hour(number, ends=ends)
        began_s = self._clock.now_s()
        self.outcome.hours += 1
        self.outcome.faults[hour.fault] += 1
        self.outcome.sentences += hour.sentences
        wait_until(self._car.online, "the daemon is online")
        self._car.seated = True
        wait_until(lambda: not self._car.nobody_drives(), "a trip is open")
        expected, heard = self._drive(hour)
        if heard != expected:
            self.outcome.different.append(
                {"hour": number, "fault": hour.fault, "expected": expected, "heard": heard}
            )
        self.outcome.recognitions.update(each[0] for each in heard)
        wait_until(self._car.online, "the daemon is online")
        wait_until(self._car.at_rest, "the ECU has answered what it was asked")
        self._car.seated = False
        wait_until(self._car.nobody_drives, "the trip is over")
        self.outcome.requests = len(self._car.requests)
        self.outcome.answers = self._car.answers
        self._measure()
        passed_s = self._clock.now_s() - began_s
        self._calendar.skipped_s += max(0.0, HOUR_S - passed_s)

    # --- what goes wrong ---

    def _drive(self, hour: Hour) -> tuple[list[Heard], list[Heard]]:
        """Let the daemon hear the hour's sound while something goes wrong.

        Returns:
            What it should know, and what it knew.
        """
        first, second = hour.sound[: hour.middle], hour.sound[hour.middle :]
        if hour.fault not in {"sound stalls", *SHORT_LIVES}:
            expected = self._undisturbed(hour.sound)
            with self._fault(hour):
                self._daemon.hear(hour.sound)
            return expected, self._daemon.heard()
        expected = [*self._undisturbed(first), *self._undisturbed(second)]
        self._daemon.hear(first)
        heard = self._daemon.heard()
        if hour.fault in SHORT_LIVES:
            # In the middle of a sentence, that is then said again.
            self._daemon.pour(second[: BLOCK_BYTES * 50])
            self._end(hour.fault)
        self._daemon.hear(second)
        return expected, [*heard, *self._daemon.heard()]

    def _end(self, fault: str) -> None:
        code = self._daemon.again(signal.SIGKILL if fault == "killed" else signal.SIGTERM)
        if fault == "stopped" and code != 0:
            self.outcome.broken.append(f"SIGTERM ended with exit code {code}")
        self.outcome.lives.append(Life())

    @contextlib.contextmanager
    def _fault(self, hour: Hour) -> Iterator[None]:
        """Something goes wrong while sound is heard, and is well again afterwards."""
        before: Mapping[str, Callable[[Hour], None]] = {
            "calendar": self._step_calendar,
            "disk full": lambda _: self._daemon.fill_disk(full=True),
            "bad profile": self._spoil_a_profile,
            "hostile messages": self._send_nonsense,
            "reload": lambda _: self._reload(),
            "bad settings": lambda _: self._reload_bad_settings(),
        }
        meanwhile: Mapping[str, Callable[[], None]] = {
            "broker killed": lambda: self._broker.restart(HANG_S),
            "broker hangs": lambda: self._broker.hang(HANG_S),
            "starved": self._starve,
        }
        if hour.fault in before:
            before[hour.fault](hour)
        act = threading.Thread(target=meanwhile.get(hour.fault, lambda: None))
        act.start()
        yield
        act.join()
        self._daemon.fill_disk(full=False)
        for left in self._bad_profile.parent.glob(self._bad_profile.name + "*"):
            left.unlink()

    def _step_calendar(self, hour: Hour) -> None:
        self._calendar.offset_s += hour.step_s

    def _spoil_a_profile(self, hour: Hour) -> None:
        self._bad_profile.write_bytes(hour.sound[:999])
        self._reload()

    def _send_nonsense(self, hour: Hour) -> None:
        for n in range(STRAY_MESSAGES):
            topic = ("vehicle", "preferences/result", "command/forget")[n % 3]
            self._car.say(topic, hour.sound[n * 70 : n * 70 + n])

    def _reload_bad_settings(self) -> None:
        good = self._file.read_text()
        self._file.write_text("sound: {rate_hz: fast}\n")
        self._reload()
        self._file.write_text(good)

    def _reload(self) -> None:
        self._daemon.signal(signal.SIGHUP)
        time.sleep(HANG_S)

    def _starve(self) -> None:
        self._daemon.signal(signal.SIGSTOP)
        time.sleep(HANG_S)
        self._daemon.signal(signal.SIGCONT)

    # --- what should be, and what is ---

    def _undisturbed(self, sound: bytes) -> list[Heard]:
        """What a recognizer of its own knows of this sound, with the profiles as they are."""
        recognizer = Recognizer(load_vad(self._models), self._encoder, self._policy)
        recognizer.step(household(self._store, 0.0))
        recognizer.step(SourceState(0.0, SourceHealth.OPEN))
        events = [e for block in read_pipe(io.BytesIO(sound)) for e in recognizer.step(block)]
        found = [event.verdict for event in events if isinstance(event, Recognition)]
        return [
            (
                verdict.outcome,
                verdict.driver or "-",
                f"{verdict.evidence.speech_s:.2f}",
                f"{verdict.evidence.matches[0].llr:.2f}" if verdict.evidence.matches else "-",
            )
            for verdict in found
        ]

    def _measure(self) -> None:
        life, process = self.outcome.lives[-1], self._daemon.process
        life.rss_mb.append(process.memory_info().rss / RSS_MB)
        life.threads.append(process.num_threads())
        life.handles.append(process.num_fds())
        spent = process.cpu_times()
        life.cpu_s.append(spent.user + spent.system)

    def topics(self) -> list[str]:
        """What the broker keeps."""
        listener = Car(self._broker.port, self._clock)
        time.sleep(1.0)
        listener.close()
        return sorted(listener.told)


def main() -> int:
    """Run; returns 1 if anything was different from what should be."""
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON of the results, written as it goes")
    options = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="whodrives-soak-") as folder:
        soak = Soak(Path(folder), options.seed)
        try:
            for number in range(options.hours):
                soak.hour(number, ends=number < options.hours // 4)
                if number % EVERY_HOURS == 0 or number == options.hours - 1:
                    result = soak.outcome.told(time.monotonic() - began_s)
                    _write(options.out, result)
            result["topics"] = soak.topics()
            _write(options.out, result)
        finally:
            soak.close()
    print(json.dumps(result, indent=1))
    return bool(result["different"] or result["broken"])


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
