"""A simulated parked car: says on `vehicle` what whodrives and the ECUs must know before they move.

    python tools/car.py --vehicle car      # a broker on this machine, without TLS

The car stands in Park with the driver's door closed, the ignition on and somebody in the driver's
seat. It says so twice a second, as a gateway would (docs/mqtt.md), until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from datetime import UTC, datetime

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

PERIOD_S = 0.5
PARKED = {
    "Vehicle.Speed": 0.0,
    "Vehicle.Powertrain.Transmission.SelectedGear": 126,
    "Vehicle.Chassis.ParkingBrake.IsEngaged": True,
    "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": False,
    "Vehicle.Cabin.Seat.Row1.DriverSide.OccupancyStatus": "OCCUPIED",
    "Vehicle.LowVoltageSystemState": "ON",
}


def main() -> int:
    """Report the parked car until Ctrl-C; 1 when there is no broker."""
    parser = argparse.ArgumentParser(description="A simulated parked car.")
    parser.add_argument("--host", default="127.0.0.1", help="the broker's host")
    parser.add_argument("--port", type=int, default=1883, help="the broker's port")
    parser.add_argument("--vehicle", required=True, help="the car's name in the topics")
    options = parser.parse_args()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    try:
        client.connect(options.host, options.port)
    except OSError as error:
        where = f"{options.host}:{options.port}"
        print(f"car: no broker at {where}: {error}; start mosquitto", file=sys.stderr)
        return 1
    client.loop_start()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            signals = {path: {"value": value, "time": now} for path, value in PARKED.items()}
            body = json.dumps({"schema": 1, "signals": signals})
            client.publish(f"whodrives/{options.vehicle}/vehicle", body, qos=1)
            time.sleep(PERIOD_S)
    client.disconnect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
