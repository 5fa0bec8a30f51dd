"""A daemon on a fast clock: python fast_daemon.py SCALE BEGAN_S CALENDAR ARGUMENTS..."""

import sys
from pathlib import Path

from tools.lab import clock as clocks

clocks.install(
    clocks.Clock(float(sys.argv[1]), float(sys.argv[2]), clocks.Calendar(Path(sys.argv[3])))
)

from whodrives.cli import main  # noqa: E402 - only after the clock

sys.exit(main.main(sys.argv[4:]))
