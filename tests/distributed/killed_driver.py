"""A training whose driver kills itself as soon as there is a checkpoint to go on from.

`python killed_driver.py FOLDER`; with a checkpoint there already it goes on to the end.
"""

import json
import os
import signal
import sys
from pathlib import Path

import ray
from learners import LONG, Learner, make_rows

from flowshield.distributed.patience import patient_start
from flowshield.distributed.train import fit_on_ray
from flowshield.distributed.train_workers import TrainWorkers


def main(folder):
    told, checkpoint = [], Path(folder) / "last.pt"
    first = not checkpoint.exists()

    def on_epoch(record):
        told.append(record["epoch"])
        if first and checkpoint.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    # without the dashboard: it starts sooner, and nothing here outlives this process's Ray
    with patient_start():
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    result = fit_on_ray(
        Learner(pause=0.02),
        make_rows(20),
        make_rows(4, seed=1),
        LONG,
        TrainWorkers(1),
        checkpoint_dir=folder,
        resume=True,
        on_epoch=on_epoch,
    )
    print(json.dumps({"told": told, "history": result.history}))


if __name__ == "__main__":
    main(sys.argv[1])
