import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import Broker, repeatedly
from tests.integration.installation import Installation
from tests.integration.running import STANDING, Car, Start

pytestmark = pytest.mark.realtime
FIX = "set both clocks by one source"


class Gateway:
    """The car's reports, with any clock."""

    def __init__(self, broker: Broker) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def report(self, age_s: float = 0.0, *, retain: bool = False, **changes: Any) -> None:
        """One report, as if `age_s` ago; `__` in a keyword stands for a dot."""
        when = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        values = STANDING | {path.replace("__", "."): value for path, value in changes.items()}
        signals = {path: {"value": value, "time": when} for path, value in values.items()}
        body = json.dumps({"schema": 1, "signals": signals})
        self._client.publish("whodrives/car/vehicle", body, 1, retain).wait_for_publish(5.0)

    def until(self, ready: Callable[[], object], age_s: float) -> None:
        """Report five times a second until something is so."""
        deadline = time.monotonic() + 25.0
        while not ready():
            assert time.monotonic() < deadline
            self.report(age_s)
            time.sleep(0.2)

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def gateway(broker: Broker) -> Iterator[Gateway]:
    """The car's gateway at the broker."""
    made = Gateway(broker)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("age_s", "said", "log"),
    [
        (4.0, "4 s old", "the car's reports are 4 s old"),
        (60.0, "60 s old", "the car's reports are 60 s old"),
        (-4.0, "4 s in the future", "event=payload_refused"),
    ],
)
def test_a_car_whose_clock_is_wrong_is_told_counted_and_forgiven(
    installed: Installation,
    run: Start,
    car: Car,
    gateway: Gateway,
    *,
    age_s: float,
    said: str,
    log: str,
) -> None:
    """Degraded with offset and fix, in the metrics, once in the log; online when it is right."""
    daemon = run(installed)
    wrong = f"vehicle: the car's reports are {said}; {FIX}"
    gateway.until(lambda: wrong in car.status()[1], age_s)
    assert car.status()[0] == "degraded"
    gateway.until(lambda: car.last("metrics").get("counters", {}).get("misdated", 0) > 3, age_s)
    gateway.until(lambda: wrong not in car.status()[1], 0.0)
    assert daemon.log.count(log) == 1


def _doctor(installed: Installation, voices: Path, broker: Broker) -> str:
    source = {"source": str(voices / "af_bella" / "1.opus")}
    installed.configure(mqtt={"port": broker.port}, sound=source)
    return installed.run("doctor").stdout


def test_a_doctor_says_that_the_car_is_silent(
    installed: Installation, voices: Path, broker: Broker
) -> None:
    """Nothing on the topic: what to do about it."""
    found = _doctor(installed, voices, broker)
    assert "✗ car: nothing on whodrives/car/vehicle within 3 s; switch the ignition on" in found


def test_a_doctor_says_what_the_broker_kept_of_a_car(
    installed: Installation, voices: Path, broker: Broker, gateway: Gateway
) -> None:
    """A report of two hours ago is no report; one that says that the car is off explains itself."""
    gateway.report(7200.0, retain=True)
    found = _doctor(installed, voices, broker)
    assert "✗ car: nothing on whodrives/car/vehicle within 3 s, the last retained report: " in found
    assert "Speed 120 min" in found
    gateway.report(7200.0, retain=True, Vehicle__LowVoltageSystemState="OFF")
    assert "✓ car: sleeps, its ignition is off" in _doctor(installed, voices, broker)


@pytest.mark.parametrize(
    ("age_s", "changes", "said"),
    [
        (0.0, {}, "✓ car: reports: Speed 0 s, "),
        (4.0, {}, f"✗ car: the car's reports are 4 s old; {FIX} (Speed "),
        (-4.0, {}, f"s in the future; {FIX}"),
        (
            0.0,
            {"Vehicle__Cabin__Door__Row1__DriverSide__IsOpen": None},
            "✗ car: the car's reports do not tell: driver's door (Speed 0 s, ",
        ),
    ],
    ids=["well", "behind", "ahead", "no door"],
)
def test_a_doctor_examines_the_car_s_reports(
    installed: Installation,
    voices: Path,
    broker: Broker,
    gateway: Gateway,
    *,
    age_s: float,
    changes: dict[str, Any],
    said: str,
) -> None:
    """Well, a clock that is wrong, and a signal that is missing, each with the ages."""
    with repeatedly(lambda: gateway.report(age_s, **changes), 0.2):
        assert said in _doctor(installed, voices, broker)
