"""Trains a run's agent and shields; episodes that are not there are collected first.

ray job submit --working-dir . -- python ray_jobs/train.py run_dir=s3://bucket/first ray=cluster
"""

import sys

from flowshield.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
