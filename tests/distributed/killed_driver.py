"""A training whose driver kills itself: `python killed_driver.py FOLDER EPOCH` (0 = not at all)."""

import json
import os
import signal
import sys

import ray
from learners import SETTINGS, Learner, make_rows

from flowshield.distributed.train import fit_on_ray
from flowshield.distributed.train_workers import TrainWorkers


def main(folder, fatal_epoch):
    told = []

    def on_epoch(record):
        told.append(int(record["epoch"]))
        if told[-1] == fatal_epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    # without the dashboard: it starts sooner, and nothing here outlives this process's Ray
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    result = fit_on_ray(
        Learner(),
        make_rows(20),
        make_rows(4, seed=1),
        SETTINGS,
        TrainWorkers(1),
        checkpoint_dir=folder,
        resume=True,
        on_epoch=on_epoch,
    )
    print(json.dumps({"told": told, "history": result.history}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
