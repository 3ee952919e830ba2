"""Sweeps shields and learning rates; --resume goes on with a sweep that was interrupted.

ray job submit --working-dir . -- python ray_jobs/tune.py run_dir=s3://bucket/sweep ray=cluster

An override with braces stands in quotes, as for any shell:
'tune.space.shield.learning_rate={grid:[1e-3,2e-3]}'.
"""

import sys

from flowshield.cli import main

sys.exit(main(["tune", *sys.argv[1:]]))
