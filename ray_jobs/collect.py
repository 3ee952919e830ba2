"""Collects a run's episodes.

ray job submit --working-dir . -- python ray_jobs/collect.py run_dir=s3://bucket/first ray=cluster
"""

import sys

from flowshield.cli import main

sys.exit(main(["collect", *sys.argv[1:]]))
