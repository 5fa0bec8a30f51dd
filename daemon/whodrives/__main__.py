"""`python -m whodrives` is `whodrives`."""

import sys

from whodrives.cli import main

sys.exit(main())
