"""Rolls a trained run's agent out alone, and learns what it does under a command.

ray job submit --working-dir . -- python ray_jobs/probe.py run_dir=s3://bucket/first ray=cluster
"""

import sys

from flowshield.cli import main

sys.exit(main(["probe", *sys.argv[1:]]))
