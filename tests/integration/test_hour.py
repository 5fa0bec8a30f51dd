"""An hour of the daemon in real time, through a microphone, with accidents: `make hour`.

Not part of `make test`. It writes what it measured to the file that WHODRIVES_HOUR names.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from tests.conftest import Broker, VirtualMicrophone
from tests.integration.installation import Installation
from tests.integration.running import Car, Start

pytestmark = pytest.mark.hour

HOUR_S = 3600.0
AWAY_S = 4.0
WARM_S = 600.0
DRIVER, STRANGERS = "af_bella", ("bm_george", "am_adam", "hf_alpha")


@pytest.mark.timeout(HOUR_S + 600)
def test_an_hour_with_accidents_leaves_nothing_behind(
    run: Start,
    installed: Installation,
    broker: Broker,
    virtual_microphone: VirtualMicrophone,
    voices: Path,
) -> None:
    """Whoever speaks is judged rightly; memory, threads and handles are as after ten minutes."""
    installed.configure(sound={"device": "pulse"})
    daemon = run(installed, virtual_microphone.environment)
    process = psutil.Process(daemon.process.pid)
    rng = random.Random(1)  # noqa: S311 (always the same hour)
    accidents = _accidents(
        virtual_microphone, broker, lambda: daemon.process.send_signal(signal.SIGHUP)
    )
    done: Counter[str] = Counter()
    measured: list[dict[str, float]] = []
    began_s = time.monotonic()
    while (at_s := time.monotonic() - began_s) < HOUR_S:
        accident = rng.choice([*accidents, *["none"] * 12])
        done[accident] += 1
        accidents.get(accident, lambda: None)()
        voice = rng.choice((DRIVER, rng.choice(STRANGERS)))
        sentence = voices / voice / f"{rng.choice((5, 6))}.opus"
        outcome = _judged(broker, virtual_microphone, sentence, rng.uniform(2, 12))
        assert (outcome == "known") == (voice == DRIVER), f"{voice} after {accident}: {outcome}"
        facts = {"threads": process.num_threads(), "handles": process.num_fds()}
        rss_mb = process.memory_info().rss / 1e6
        measured.append({"at_s": round(at_s), "rss_mb": round(rss_mb, 1), **facts})
        _write(measured, done, process)
    warm = [each for each in measured if each["at_s"] > WARM_S]
    half = len(warm) // 2
    for what, most in (("rss_mb", 2.0), ("threads", 1), ("handles", 2)):
        grown = max(e[what] for e in warm[half:]) - max(e[what] for e in warm[:half])
        assert grown <= most, f"{what} grew by {grown}: {measured}"
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.ended() == 0


def _judged(broker: Broker, microphone: VirtualMicrophone, sentence: Path, quiet_s: float) -> str:
    """What the daemon makes of a sentence, once all is well; nobody speaks for a while after it."""
    car = Car(broker)
    car.until(lambda: car.status() == ("online", []), "all is well")
    microphone.play(sentence)
    car.until(lambda: car.all("recognition"), f"{sentence} is judged")
    over_s = time.monotonic() + quiet_s
    car.until(lambda: time.monotonic() > over_s, "the pause is over")
    car.close()
    outcome: str = car.all("recognition")[0]["outcome"]
    return outcome


def _accidents(
    microphone: VirtualMicrophone, broker: Broker, reload: Callable[[], None]
) -> Mapping[str, Callable[[], None]]:
    def for_a_while(begin: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
        def accident() -> None:
            begin()
            time.sleep(AWAY_S)
            end()

        return accident

    return {
        "microphone stalls": for_a_while(microphone.suspend, microphone.resume),
        "microphone unplugged": for_a_while(microphone.unplug, microphone.plug),
        "sound server killed": for_a_while(microphone.kill_server, microphone.start),
        "sound server hangs": for_a_while(microphone.freeze, microphone.thaw),
        "broker killed": for_a_while(broker.stop, broker.start),
        "broker hangs": for_a_while(broker.freeze, broker.thaw),
        "reload": reload,
    }


def _write(measured: list[dict[str, float]], done: Counter[str], process: psutil.Process) -> None:
    if not (path := os.environ.get("WHODRIVES_HOUR")):
        return
    cpu = process.cpu_times()
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    peak_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": measured[-1]["at_s"],
        "sentences": len(measured),
        "accidents": dict(sorted(done.items())),
        "peak_rss_mb": round(int(peak_kb) * 1024 / 1e6, 1),
        "cpu_s": round(cpu.user + cpu.system, 1),
        "measured": measured[:: max(1, len(measured) // 40)],
    }
    Path(path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
