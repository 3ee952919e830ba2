"""Lets `python -m flowshield` do what the command `flowshield` does."""

import sys

from flowshield.cli import main

sys.exit(main())
