"""Training on Ray Train against the same fit in this process."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import learners
import numpy as np
import pytest
import ray
import torch
from learners import LONG, SETTINGS, Breaking, Killed, Learner, make_rows
from patience import PATIENCE_S

from flowshield.config import compose
from flowshield.data import TrajectoryDataset
from flowshield.distributed.train import fit_on_ray
from flowshield.distributed.train_workers import TrainWorkers
from flowshield.errors import ConfigError, DataError
from flowshield.models.serialization import load_payload
from flowshield.training import Trainer, fit

pytestmark = pytest.mark.ray

# the workers of pytest's process cannot import what lies beside its tests
ray.cloudpickle.register_pickle_by_value(learners)

TRAIN, VALIDATION = make_rows(20), make_rows(4, seed=1)  # 400 rows: 6 steps an epoch
HERE = Path(__file__).parent


def run(model, folder, workers=1, settings=SETTINGS, *, rows=(TRAIN, VALIDATION), **options):
    resources = options.pop("resources", {})
    return fit_on_ray(
        model,
        *rows,
        settings,
        TrainWorkers(workers, **resources),
        checkpoint_dir=str(folder),
        **options,
    )


def untimed(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def assert_equal(ours, theirs):
    theirs = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_one_worker_killed_on_the_way_does_what_this_process_does_to_the_bit(cluster, tmp_path):
    """Killed in the fourth of six epochs; the last checkpoint was that of the second."""
    rows = make_rows(20, commands="future"), make_rows(4, seed=1, commands="future")
    theirs, told = Learner(), []
    ours = Killed(tmp_path / "mark", step=3 * 6 + 4)
    expected = fit(theirs, *rows, SETTINGS, checkpoint_dir=tmp_path / "here")
    found = run(ours, tmp_path / "ray", rows=rows, on_epoch=told.append)
    assert (tmp_path / "mark").exists()
    assert_equal(ours, theirs)
    assert not ours.training
    assert [record["epoch"] for record in told] == [1, 2, 3, 4, 5, 6]
    assert untimed(found.history) == untimed(expected.history) == untimed(told)
    # what the checkpoint held was not trained again: it is the same, seconds and all
    assert found.history[:2] == told[:2]
    assert (found.best_epoch, found.validation_loss) == (
        expected.best_epoch,
        expected.validation_loss,
    )
    for name, kind in (("last.pt", "fit"), ("best.pt", "weights")):
        a, b = (load_payload(tmp_path / place / name, kind) for place in ("ray", "here"))
        assert a.keys() == b.keys()
        assert a.get("identity") == b.get("identity")
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == ["best.pt", "last.pt"]
    # either goes on from what the other wrote: here with no epoch left to do
    again = Learner()
    resumed = fit(again, *rows, SETTINGS, checkpoint_dir=tmp_path / "ray", resume=True)
    assert untimed(resumed.history) == untimed(expected.history)
    assert_equal(again, theirs)


def test_two_workers_agree_with_one(cluster, tmp_path):
    """At the same global batch, after the same number of steps.

    The order of the rows differs, so the losses differ by the noise of stochastic gradients. Five
    other seeds of the fit in one process say how much that is; three of their standard deviations
    are allowed.
    """
    settings = replace(SETTINGS, n_epochs=12)
    losses = []
    for seed in range(5):
        result = fit(Learner(), TRAIN, VALIDATION, replace(settings, seed=seed))
        losses.append(result.history[-1]["validation_loss"])
    noise = float(torch.tensor(losses).std())
    one = fit(Learner(), TRAIN, VALIDATION, settings)
    two = run(Learner(), tmp_path, 2, settings)
    first, last = one.history[0]["validation_loss"], one.history[-1]["validation_loss"]
    assert last < 0.5 * first  # something was learned
    assert abs(two.history[-1]["validation_loss"] - last) < 3 * noise + 1e-3 * first


def drive(folder):
    """Runs the driver; what it wrote goes by way of files, for its Ray outlives it for a while."""
    files = [folder / name for name in ("stdout", "stderr")]
    with files[0].open("w") as stdout, files[1].open("w") as stderr:
        program = [sys.executable, HERE / "killed_driver.py", folder]
        code = subprocess.run(program, stdout=stdout, stderr=stderr, timeout=PATIENCE_S).returncode
    return code, files[0].read_text(), files[1].read_text()


def test_a_driver_killed_and_started_again_goes_on(tmp_path):
    code, _, errors = drive(tmp_path)
    assert code == -signal.SIGKILL, errors
    last = load_payload(tmp_path / "last.pt", "fit")
    assert 0 < last["epoch"] < LONG.n_epochs
    code, output, errors = drive(tmp_path)
    assert code == 0, errors
    found = json.loads(output.splitlines()[-1])
    assert found["told"] == [record["epoch"] for record in found["history"]]
    # what the checkpoint held was not trained again, seconds and all, and the rest is the same
    assert found["history"][: last["epoch"]] == last["history"]
    expected = fit(Learner(), TRAIN, VALIDATION, LONG)
    assert untimed(found["history"]) == untimed(expected.history)


def test_a_loss_of_nan_comes_out_as_itself_with_the_best_weights_so_far(cluster, tmp_path):
    model = Breaking(good_steps=2 * 6 + 2)
    with pytest.raises(DataError, match="no longer finite in epoch 3 .* weights of epoch 2"):
        run(model, tmp_path)
    two_epochs = Learner()
    with pytest.raises(StopIteration):
        fit(two_epochs, TRAIN, VALIDATION, SETTINGS, checkpoint_dir=tmp_path / "a", on_epoch=stop)
    best = load_payload(tmp_path / "a" / "best.pt", "weights")["state_dict"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, best[name])


def stop(record):
    if record["epoch"] == 3:
        raise StopIteration


def test_rows_that_do_not_fit_are_streamed_to_as_many_workers_as_there_are(cluster, tmp_path):
    settings = replace(SETTINGS, n_epochs=8)
    model = Learner()
    result = run(model, tmp_path, (1, 2), settings, resources={"resident_bytes": 0})
    assert [record["epoch"] for record in result.history] == list(range(1, 9))
    whole = fit(Learner(), TRAIN, VALIDATION, settings)
    first = whole.history[0]["validation_loss"]
    ours, theirs = (each.history[-1]["validation_loss"] for each in (result, whole))
    assert abs(ours - theirs) < 0.1 * first


def test_the_trainer_asks_for_workers_by_their_number_alone(cluster, tmp_path):
    """Agent and shield, by two workers, from one config key; all else is as in this process."""
    random = np.random.default_rng(0)
    n, length = 100, 5
    dataset = TrajectoryDataset.from_arrays(
        random.normal(size=(n * length, 3)),
        random.uniform(-0.5, 0.5, size=(n * length, 2)),
        random.normal(size=n * length),
        np.arange(n * length) % length == length - 1,
    )
    config = compose("train", ["num_workers=2", "n_epochs=1", "shield_epochs=1", "device=cpu"])
    config.log_dir, config.model.hidden_dim, config.calibration.alpha = str(tmp_path), 16, 0.2
    told = []
    trainer = Trainer(config, on_epoch=lambda name, record: told.append((name, record["epoch"])))
    agent, shield = trainer.train(dataset)
    assert sorted(told) == [("agent", 1), ("flow_matching", 1)]  # side by side, in any order
    assert trainer.results.keys() == {"agent", "flow_matching"}
    assert not agent.training and not shield.training
    assert shield.is_ood(torch.zeros(2, 3), torch.tensor([[3.0, 0.0], [3.0, 1e6]]))[1]
    for name, model in (("agent", agent), ("flow_matching", shield)):
        assert list((tmp_path / name).glob("events*"))  # TensorBoard's
        best = load_payload(tmp_path / "checkpoints" / name / "best.pt", "weights")["state_dict"]
        assert best.keys() == model.state_dict().keys()
        assert all(torch.equal(best[key], value) for key, value in model.state_dict().items())


def test_more_workers_than_this_machine_can_have_are_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="5 training workers with 1 CPU each need 5 CPU"):
        run(Learner(), tmp_path, 5)
    assert [TrainWorkers(n).at_once(9) for n in (1, 2, 3)] == [5, 3, 2]  # one more than fit
    assert TrainWorkers(1).at_once(2) == 2
    with pytest.raises(ConfigError, match="need 1 GPU, this Ray has 0"):
        run(Learner(), tmp_path, 1, resources={"use_gpu": True})


def test_models_share_a_gpu_but_the_workers_of_one_do_not():
    quarter = TrainWorkers(1, use_gpu=True, gpus_per_worker=0.25)
    assert quarter.resources() == {"CPU": 1.0, "GPU": 0.25}
    assert quarter.scaling().resources_per_worker == {"CPU": 1.0, "GPU": 0.25}
    for number in (2, (1, 2)):
        with pytest.raises(ConfigError, match="expected 1 where a model has more than one worker"):
            TrainWorkers(number, use_gpu=True, gpus_per_worker=0.25)
