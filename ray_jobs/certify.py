"""Tests which rule of a trained run's guard does no harm; what was not probed is probed first.

ray job submit --working-dir . -- python ray_jobs/certify.py run_dir=s3://bucket/first ray=cluster
"""

import sys

from flowshield.cli import main

sys.exit(main(["certify", *sys.argv[1:]]))
