"""A node of the cluster is lost while it works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

HERE = Path(__file__).parent
PATIENCE_S = 300  # for a busy machine; an idle one needs a tenth of it


def drive(what, folder):
    """Runs the driver, with a cluster of its own; what it wrote goes by way of files."""
    with (folder / "log").open("w") as log:
        program = [sys.executable, HERE / "lost_node_driver.py", what, folder]
        code = subprocess.run(program, stdout=log, stderr=log, timeout=PATIENCE_S).returncode
    assert code == 0, (folder / "log").read_text()
    return json.loads((folder / "told.json").read_text())


def test_a_node_lost_while_collecting_costs_no_episode(tmp_path):
    from lost_node_driver import CONTROLLER, N_EPISODES

    from flowshield.data import DataCollector
    from flowshield.envs import make_env

    told = drive("collect", tmp_path)
    assert told["chunks"] == N_EPISODES // 16
    alone = DataCollector(make_env("lunarlander"), behaviour=CONTROLLER)
    alone.collect(N_EPISODES, seed=3).save(tmp_path / "alone.npz")
    assert (tmp_path / "data.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()


def test_a_node_lost_while_training_costs_no_epoch(tmp_path):
    from learners import LONG

    found = drive("train", tmp_path)
    for records in found.values():
        assert [record["epoch"] for record in records] == list(range(1, LONG.n_epochs + 1))
    # what the checkpoint held was not trained again: it is the same, seconds and all
    assert found["history"][:2] == found["told"][:2]
    assert (tmp_path / "fit" / "last.pt").exists()
