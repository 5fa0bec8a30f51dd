"""A daemon on a fast clock: python born.py SCALE BEGAN_S CALENDAR ARGUMENTS-OF-WHODRIVES..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

import clock as clocks

clocks.install(
    clocks.Clock(float(sys.argv[1]), float(sys.argv[2]), clocks.Calendar(Path(sys.argv[3])))
)

from whodrives import cli  # noqa: E402 - only after the clock

sys.exit(cli.main(sys.argv[4:]))
