"""A cluster of two nodes that loses one while this process collects, and the next while it trains.

`python lost_node_driver.py FOLDER`; FOLDER/told.json says what it saw.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import ray
from learners import LONG, Learner, make_rows
from ray.cluster_utils import Cluster

from flowshield.data import DataCollector
from flowshield.distributed.patience import patient_start
from flowshield.distributed.train import fit_on_ray
from flowshield.distributed.train_workers import TrainWorkers
from flowshield.envs import make_env

CONTROLLER = {"components": [{"kind": "controller", "weight": 1.0}]}
N_EPISODES = 192
# a node that does not answer for four seconds is dead
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 4}


def main(folder):
    # Ray Train learns of the worker before the node, and looks for room for two once more
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "8"
    nodes = Cluster(
        initialize_head=True,
        # without the dashboard: its processes take this machine's time, and nobody looks at it
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": HEALTH},
    )
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        told = {}
        for work in (collect, train):
            lost = partial(nodes.remove_node, nodes.add_node(num_cpus=1), allow_graceful=False)
            told[work.__name__] = work(Path(folder), lost)
        Path(folder, "told.json").write_text(json.dumps(told))
    finally:
        ray.shutdown()
        nodes.shutdown()


def collect(folder, lose_the_other):
    """Both nodes have made blocks by then, too large to lie anywhere but in their stores."""
    done, collector = [], DataCollector(make_env("lunarlander"), behaviour=CONTROLLER)

    def on_chunk(returns):
        done.append(len(returns))
        if len(done) == 4:
            lose_the_other()

    shared = collector.collect_shared(
        N_EPISODES, seed=3, num_workers=2, chunk_episodes=16, on_chunk=on_chunk
    )
    shared.to_local().save(folder / "data.npz")
    return {"chunks": len(done)}


def train(folder, lose_the_other):
    told = []

    def on_epoch(record):
        told.append(record)
        if record["epoch"] == 5:
            lose_the_other()

    result = fit_on_ray(
        Learner(pause=0.02),
        make_rows(20),
        make_rows(4, seed=1),
        LONG,
        TrainWorkers((1, 2)),
        checkpoint_dir=str(folder / "fit"),
        on_epoch=on_epoch,
    )
    return {"told": told, "history": result.history}


if __name__ == "__main__":
    with patient_start():  # of each of the nodes
        main(sys.argv[1])
