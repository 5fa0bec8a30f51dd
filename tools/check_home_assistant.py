"""Show this car to a real Home Assistant, and say what it made of it.

    python3.11 -m venv HOME
    HOME/bin/pip install homeassistant==2024.3.3 paho-mqtt==1.6.1 janus==1.0.0 numpy==1.26.4
    python tools/check_home_assistant.py HOME/bin/python

Home Assistant needs packages that exclude ours, so it has a virtual environment of its own, and is
not part of `make test`. It hears a private mosquitto, discovers the
car, and tells the states of its entities after each thing that whodrives says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from whodrives.config.schema import Vehicle
from whodrives.core.events import Health
from whodrives.mqtt.ecosystems import home_assistant
from whodrives.mqtt.encode import encode, encode_offline
from whodrives.trip.types import Delivery, DriverState, SettledBy

CAR = Vehicle()
PORT = 18_839

INSIDE = """
import asyncio, json, sys
from homeassistant import auth, bootstrap, config_entries, core, loader
from homeassistant.setup import async_setup_component

async def main(folder, port):
    hass = core.HomeAssistant(folder)
    hass.config.skip_pip = True
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    # MQTT depends on the web server; this one is for this machine alone.
    await async_setup_component(hass, "http", {"http": {"server_host": "127.0.0.1",
        "server_port": port + 1}})
    entry = config_entries.ConfigEntry(version=1, minor_version=1, domain="mqtt", title="mqtt",
        data={"broker": "127.0.0.1", "port": port, "protocol": "5", "discovery": True},
        source="user")
    await hass.config_entries.async_add(entry)
    await hass.async_start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        await asyncio.sleep(1.0)
        found = {s.entity_id: [s.state, dict(s.attributes)] for s in hass.states.async_all()}
        print(json.dumps(found, default=str), flush=True)
    await hass.async_stop(force=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

NOW_S = 1_000.0
SAYINGS = {
    "the daemon starts": (Health(NOW_S, ("source: not open yet",)), DriverState(NOW_S)),
    "all is well": (Health(NOW_S),),
    "a trip begins": (DriverState(NOW_S, trip_open=True),),
    "a driver is known": (
        DriverState(
            NOW_S, "d-7f3a0000", NOW_S, 0.999, SettledBy.VOICE, Delivery.COMPLETED, trip_open=True
        ),
    ),
    "the trip ends": (DriverState(NOW_S),),
    "the daemon dies": (),
}
EXPECTED = {
    "the daemon starts": ("unknown", "unknown", "on"),
    "all is well": ("unknown", "unknown", "off"),
    "a trip begins": ("unknown", "none", "off"),
    "a driver is known": ("d-7f3a0000", "completed", "off"),
    "the trip ends": ("nobody", "none", "off"),
    "the daemon dies": ("unavailable",) * 3,
}
ENTITIES = (
    "sensor.whodrives_car_driver",
    "sensor.whodrives_car_preferences",
    "binary_sensor.whodrives_car_problem",
)


def main() -> int:
    """Play the sayings to Home Assistant; 0 when it shows what is expected of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="the interpreter of Home Assistant's environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "mosquitto.conf"
        conf.write_text(f"listener {PORT} 127.0.0.1\nallow_anonymous true\n", encoding="utf-8")
        (Path(folder) / "configuration.yaml").touch()
        broker = subprocess.Popen(["mosquitto", "-c", conf], stderr=subprocess.DEVNULL)
        home = subprocess.Popen(
            [options.python, "-c", INSIDE, folder, str(PORT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            return _play(home)
        finally:
            home.terminate()
            broker.terminate()
            home.wait()
            broker.wait()


def _play(home: subprocess.Popen[str]) -> int:
    if home.stdin is None or home.stdout is None:
        raise RuntimeError("no pipes")
    if home.stdout.readline() != "ready\n":
        print("Home Assistant did not start; see above", file=sys.stderr)
        return 1
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect("127.0.0.1", PORT)
    client.loop_start()
    for message in home_assistant(CAR.id):
        client.publish(message.topic, message.payload, 1, retain=True).wait_for_publish(5)
    time.sleep(2)
    wrong = 0
    for what, events in SAYINGS.items():
        said = [encode(event, CAR, time.time() - NOW_S) for event in events]
        for message in filter(None, said or [encode_offline(CAR.id, "the connection was lost")]):
            client.publish(message.topic, message.payload, 1, retain=True).wait_for_publish(5)
        home.stdin.write("\n")
        home.stdin.flush()
        states = json.loads(home.stdout.readline())
        shown = tuple(states.get(name, ["missing"])[0] for name in ENTITIES)
        right = shown == EXPECTED[what]
        wrong += not right
        print(f"{'ok   ' if right else 'WRONG'} {what}: {', '.join(shown)}")
    client.loop_stop()
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
