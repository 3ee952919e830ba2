"""Evaluates a run; what it lacks, episodes or models, is made first.

ray job submit --working-dir . -- python ray_jobs/evaluate.py run_dir=s3://bucket/first ray=cluster
"""

import sys

from flowshield.cli import main

sys.exit(main(["run", *sys.argv[1:]]))
