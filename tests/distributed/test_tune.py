"""Sweeps on Ray Tune: ranked at the end, and gone on with after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from patience import PATIENCE_S
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from flowshield.cli import main
from flowshield.data import TrajectoryDataset
from flowshield.distributed.sweep_watch import RememberingASHA, raising_ctrl_c
from flowshield.models import BaseShield
from flowshield.models.scale import ReturnScale
from flowshield.pipeline import tuning
from flowshield.training import Trainer

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]

RATES, SHIELDS = (1e-3, 1e-2), ("quantile", "mixture")
TINY = [
    "env=gridworld",
    "behaviour=random",
    "data.n_episodes=200",
    "evaluation.n_states=100",
    "shield=[quantile,mixture]",
    "shield.quantile.hidden_dim=16",
    "shield.mixture.hidden_dim=16",
    "tune.space.shield.learning_rate={grid:[1e-3,1e-2]}",
    "batch_size=64",
    "checkpoint_every=1",
    "device=cpu",
    "ray.num_workers=0",  # two hundred short episodes are collected here sooner than actors start
]
ALL = sorted((shield, rate) for shield, rate in product(SHIELDS, RATES))


def results(folder):
    return json.loads((folder / "sweep" / "results.json").read_text())


def drawn(trials):
    return sorted(
        (t["parameters"]["shield"], t["parameters"]["shield.learning_rate"]) for t in trials
    )


def checkpoints(folder):
    """When each of the finished shields was written."""
    files = (folder / "sweep" / "trials").glob("*/checkpoint_*/shield.pt")
    return {path: path.stat().st_mtime_ns for path in files}


# ------------------------------------------------------------------ a sweep


@pytest.fixture(scope="module")
def swept(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "run"
    asha = ["shield_epochs=3", "tune.grace_epochs=1", "tune.reduction_factor=2"]
    assert main(["tune", f"run_dir={folder}", *TINY, *asha]) == 0
    return folder


def test_a_sweep_ends_ranked_with_every_trial_finished_or_stopped(swept, capsys):
    content = results(swept)
    trials = content["trials"]
    assert drawn(trials) == ALL
    statuses = [trial["status"] for trial in trials]
    assert set(statuses) <= {"finished", "stopped"} and statuses == sorted(statuses)
    finished = [trial for trial in trials if trial["status"] == "finished"]
    scores = [trial["score"] for trial in finished]
    assert scores == sorted(scores, reverse=True)
    for trial in trials:
        assert len(trial["scores"]) == trial["epochs"] <= 3
        assert trial["score"] == trial["scores"][-1] <= trial["auc_roc"]
        assert (trial["status"] == "finished") == (trial["epochs"] == 3)
    assert content["best"]["trial"] == trials[0]["trial"]
    assert 0 <= content["best"]["test"]["detection"]["auc_roc"] <= 1
    table = (swept / "sweep" / "table.md").read_text().splitlines()
    assert len(table) == 2 + 4 and table[2].startswith(f"| 1 | {trials[0]['parameters']['shield']}")
    assert (swept / "sweep" / "sweep.png").stat().st_size > 0


def test_a_sweep_records_the_margin_that_it_derived_from_the_data(swept):
    data = TrajectoryDataset(swept / "dataset.npz")
    yardstick = results(swept)["yardstick"]
    assert yardstick["bound_margin"] == ReturnScale.of_commands(data.commands).margin
    assert "bound_margin" in yardstick["derived"]


def test_the_best_shield_is_calibrated_and_trained_again_from_its_settings(swept, tmp_path):
    shield = BaseShield.load(swept / "sweep" / "best_shield.pt")
    assert shield.calibration.alpha == pytest.approx(0.05)
    best = results(swept)["trials"][0]
    assert shield.shield_type == best["parameters"]["shield"]
    config = OmegaConf.load(swept / "sweep" / "best.yaml")
    assert "run_dir" not in config and "tune" not in config
    config.log_dir = str(tmp_path)
    again = Trainer(config).train_shield(TrajectoryDataset(swept / "dataset.npz"))
    theirs = shield.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in again.state_dict().items())
    assert again.calibration.thresholds == shield.calibration.thresholds


def test_tensorboard_has_the_hyperparameters_of_every_trial(swept):
    found = []
    for file in (swept / "sweep" / "trials").glob("*/events.out.tfevents.*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    found.append(data.session_start_info.hparams)
    starts = [h for h in found if "shield" in h]
    pairs = [(h["shield"].string_value, h["shield.learning_rate"].number_value) for h in starts]
    assert sorted(pairs) == ALL


def test_a_sweep_is_not_begun_twice_and_a_finished_one_is_read_not_repeated(swept, capsys):
    before, content = checkpoints(swept), results(swept)
    assert main(["tune", f"run_dir={swept}"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["tune", "--resume", f"run_dir={swept}"]) == 0
    assert "trial 1 of" not in capsys.readouterr().out
    assert checkpoints(swept) == before
    assert results(swept)["trials"] == content["trials"]


def test_optuna_draws_trials_and_one_whose_loss_breaks_does_not_break_the_sweep(
    cluster, swept, tmp_path, capsys
):
    pytest.importorskip("optuna")
    overrides = [
        *(f"data.path={swept / 'dataset.npz'}", "shield=mixture", "shield_epochs=1"),
        *("tune.search=optuna", "tune.n_samples=4", "seed=1"),
        "tune.space.shield.learning_rate={grid:[1e-3,1e30]}",
    ]
    ours = [o for o in TINY if not o.startswith(("shield", "tune", "data"))]
    assert main(["tune", f"run_dir={tmp_path}", *ours, *overrides]) == 0
    assert "with optuna a grid is a choice" in capsys.readouterr().out
    trials = results(tmp_path)["trials"]
    broken = [t for t in trials if t["parameters"]["shield.learning_rate"] == 1e30]
    assert len(trials) == 4 and 0 < len(broken) < 4
    assert [t["status"] for t in trials] == ["finished"] * (4 - len(broken)) + ["failed"] * len(
        broken
    )
    assert all("no longer finite" in trial["error"] for trial in broken)


# ------------------------------------------------------------------ killed and resumed


def state_of(folder):
    """The status of each trial in the newest of Tune's own files, by trial."""
    files = sorted((folder / "sweep" / "trials").glob("experiment_state-*.json"))
    try:
        pairs = json.loads(files[-1].read_text())["trial_data"]
    except (IndexError, json.JSONDecodeError):  # not yet, or half copied
        return {}
    trials = [json.loads(trial) for trial, _ in pairs]
    return {trial["trial_id"]: trial["status"] for trial in trials}


def test_a_sweep_killed_and_resumed_ends_with_every_trial_finished_once(
    cluster, swept, tmp_path, capsys
):
    folder, data = tmp_path / "run", f"data.path={swept / 'dataset.npz'}"
    settings = [*TINY, data, "shield_epochs=4", "tune.scheduler=none", f"run_dir={folder}"]
    program = [sys.executable, "-m", "flowshield", "tune", *settings]
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=stderr)
    deadline = time.monotonic() + PATIENCE_S
    while "TERMINATED" not in state_of(folder).values():
        assert process.poll() is None, (tmp_path / "stderr").read_text()
        assert time.monotonic() < deadline, "no trial finished"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    known, finished = state_of(folder), checkpoints(folder)
    assert not (folder / "sweep" / "results.json").exists(), "was to be killed before its end"

    assert main(["tune", "--resume", f"run_dir={folder}"]) == 0
    trials = results(folder)["trials"]
    assert drawn(trials) == ALL
    assert {trial["status"] for trial in trials} == {"finished"}
    assert {trial["epochs"] for trial in trials} == {4}
    assert set(known) <= {trial["trial"] for trial in trials}
    # what was over is neither trained again nor told again
    over = [trial for trial, status in known.items() if status == "TERMINATED"]
    assert 0 < len(over) < 4
    assert capsys.readouterr().out.count("tune  trial ") == 4 - len(over)
    after = checkpoints(folder)
    kept = {path: when for path, when in finished.items() if path.parents[1].name in over}
    assert kept and kept.items() <= after.items()
    assert len({path.parents[1] for path in after}) == 4


def test_ctrl_c_leaves_a_sweep_that_can_be_gone_on_with(
    cluster, swept, tmp_path, capsys, monkeypatch
):
    tell = tuning._Teller.__call__

    def interrupt(teller, trial, over):
        tell(teller, trial, over)
        if over == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(tuning._Teller, "__call__", interrupt)
    ours = [o for o in TINY if not o.startswith(("shield=", "shield.q", "data"))]
    overrides = ["shield=mixture", "shield_epochs=1", "tune.max_concurrent=1"]
    data = f"data.path={swept / 'dataset.npz'}"
    assert main(["tune", f"run_dir={tmp_path}", data, *ours, *overrides]) == 130
    said = capsys.readouterr().err
    assert f"to go on: flowshield tune --resume run_dir={tmp_path}\n" in said
    assert not (tmp_path / "sweep" / "results.json").exists()
    (first,) = checkpoints(tmp_path)
    assert main(["tune", "--resume", f"run_dir={tmp_path}"]) == 0
    assert [trial["status"] for trial in results(tmp_path)["trials"]] == ["finished"] * 2
    assert "trial 2 of 2" in capsys.readouterr().out
    assert len(checkpoints(tmp_path)) == 2 and first in checkpoints(tmp_path)


def test_a_ctrl_c_that_tune_took_to_itself_is_raised():
    ours = signal.getsignal(signal.SIGINT)
    with raising_ctrl_c():
        signal.signal(signal.SIGINT, lambda *_: None)  # as Tune does; and nobody interrupts
    assert signal.getsignal(signal.SIGINT) is ours
    with pytest.raises(KeyboardInterrupt), raising_ctrl_c():
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGINT, ours)  # as Tune does when interrupted
    assert signal.getsignal(signal.SIGINT) is ours


def test_resuming_where_there_is_no_sweep_says_so(tmp_path, capsys):
    assert main(["tune", "--resume", f"run_dir={tmp_path}", *TINY]) == 1
    assert "holds no sweep to go on with" in capsys.readouterr().err
    assert main(["tune", "--resume"]) == 1
    assert "needs run_dir=PATH" in capsys.readouterr().err


def test_asha_hears_of_a_restored_sweep_what_its_trials_had_reported():
    asha = RememberingASHA(
        time_attr="epoch",
        metric="score",
        mode="max",
        max_t=8,
        grace_period=2,
        reduction_factor=2,
        stop_last_trials=False,
    )
    for i in range(4):
        restored = SimpleNamespace(trial_id=f"old{i}", last_result={"scores": [0.5, 0.9]})
        asha.on_trial_add(None, restored)
    new = SimpleNamespace(trial_id="new", last_result={})
    asha.on_trial_add(None, new)
    assert asha.on_trial_result(None, new, {"epoch": 1, "score": 0.1}) == "CONTINUE"
    assert asha.on_trial_result(None, new, {"epoch": 2, "score": 0.1}) == "STOP"


# ------------------------------------------------------------------ shields of the user's


def test_a_sweep_trains_shields_of_the_users_program(tmp_path):
    source = (ROOT / "examples" / "own_shield.py").read_text()
    program, main_line = source.split('if __name__ == "__main__":')
    assert "main([" in main_line
    arguments = ["tune", f"run_dir={tmp_path}/run", *TINY[:5], "shield=[gaussian]", *TINY[7:]]
    (tmp_path / "program.py").write_text(f"{program}\nsys.exit(main({arguments}))\n")
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    trials = results(tmp_path / "run")["trials"]
    assert drawn(trials) == [("gaussian", rate) for rate in RATES]
    assert {trial["status"] for trial in trials} <= {"finished", "stopped"}
