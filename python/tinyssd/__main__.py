"""``python -m tinyssd`` is the command ``tinyssd``."""

import sys

from tinyssd.cli import main

sys.exit(main())
