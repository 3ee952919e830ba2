"""flowshield in a process that hears Ctrl-C, whatever started it."""

import sys

# what runs in the background of a shell script inherits that Ctrl-C is ignored
_PROGRAM = """
import signal
import sys

from flowshield.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""
COMMAND = [sys.executable, "-c", _PROGRAM]
