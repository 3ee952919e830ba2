"""A node of the cluster is lost while it works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from learners import LONG
from lost_node_driver import CONTROLLER, N_EPISODES
from patience import PATIENCE_S

from flowshield.data import DataCollector
from flowshield.envs import make_env

pytestmark = pytest.mark.ray

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """The driver's folder, and what it saw; it has a cluster of its own, and writes to files."""
    folder = tmp_path_factory.mktemp("nodes")
    with (folder / "log").open("w") as log:
        program = [sys.executable, HERE / "lost_node_driver.py", folder]
        code = subprocess.run(program, stdout=log, stderr=log, timeout=PATIENCE_S).returncode
    assert code == 0, (folder / "log").read_text()
    return folder, json.loads((folder / "told.json").read_text())


def test_a_node_lost_while_collecting_costs_no_episode(driven):
    folder, told = driven
    assert told["collect"]["chunks"] == N_EPISODES // 16
    alone = DataCollector(make_env("lunarlander"), behaviour=CONTROLLER)
    alone.collect(N_EPISODES, seed=3).save(folder / "alone.npz")
    assert (folder / "data.npz").read_bytes() == (folder / "alone.npz").read_bytes()


def test_a_node_lost_while_training_costs_no_epoch(driven):
    folder, told = driven
    for records in told["train"].values():
        assert [record["epoch"] for record in records] == list(range(1, LONG.n_epochs + 1))
    # what the checkpoint held was not trained again: it is the same, seconds and all
    assert told["train"]["history"][:2] == told["train"]["told"][:2]
    assert (folder / "fit" / "last.pt").exists()
