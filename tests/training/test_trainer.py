"""The trainer on a small dataset whose states say which episode they come from."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from flowshield.config import compose
from flowshield.data import TrajectoryDataset
from flowshield.errors import ConfigError, DataError
from flowshield.models import BaseShield, UDRLAgent
from flowshield.training import FitResult, Trainer, fitter
from flowshield.training.fitter import asked_workers
from flowshield.training.worker import InProcessWorker

ROOT = Path(__file__).parents[2]
N_EPISODES, LENGTH = 160, 5


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_dataset(n_episodes=N_EPISODES, metadata=None):
    random = np.random.default_rng(0)
    states = random.normal(size=(n_episodes * LENGTH, 3))
    states[:, 0] = np.repeat(np.arange(n_episodes), LENGTH)
    actions = random.uniform(-0.5, 0.5, size=(len(states), 2))
    ends = np.arange(len(states)) % LENGTH == LENGTH - 1
    return TrajectoryDataset.from_arrays(
        states, actions, random.normal(size=len(states)), ends, metadata=metadata
    )


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def make_config(tmp_path, **changes):
    config = compose("train")
    config.n_epochs, config.shield_epochs, config.device = 2, 2, "cpu"
    config.log_dir, config.batch_size = str(tmp_path / "logs"), 64
    config.model.hidden_dim = 16
    return OmegaConf.merge(config, changes)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def episodes(rows):
    return set(rows.states[:, 0].tolist())


@pytest.fixture
def fits(monkeypatch):
    """What the trainer asks of `fit`, which then does nothing."""
    asked = []

    def note(*arguments, **options):
        asked.append((arguments, options))
        return FitResult(history=[], best_epoch=1, validation_loss=0.0, stopped_early=False)

    monkeypatch.setattr(fitter, "fit", note)
    return asked


# ---------------------------------------------------------------- the documented example


def test_the_specs_example(tmp_path, monkeypatch, dataset):
    monkeypatch.chdir(ROOT)
    config = OmegaConf.load("configs/train.yaml")
    config.n_epochs = config.shield_epochs = 1
    config.device, config.log_dir = "cpu", str(tmp_path)
    trainer = Trainer(config)

    agent, shield = trainer.train(dataset)

    assert isinstance(agent, UDRLAgent) and isinstance(shield, BaseShield)
    assert shield.shield_type == "flow_matching"
    assert not agent.training and not shield.training
    state, command = torch.zeros(4, 3), torch.tensor([[3.0, 0.0]]).repeat(4, 1)
    assert agent.sample(state, command).shape == (4, 2)
    assert shield.is_ood(state, command).shape == (4,)  # calibrated: no threshold is given
    assert shield.calibration.alpha == pytest.approx(0.05)
    assert set(trainer.results) == {"agent", "flow_matching"}
    for name in ("agent", "flow_matching"):
        assert (tmp_path / "checkpoints" / name / "last.pt").is_file()
        assert (tmp_path / "checkpoints" / name / "best.pt").is_file()
        assert list((tmp_path / name).glob("events.out.tfevents.*"))


def test_epochs_are_the_specs_unless_they_are_given(tmp_path, monkeypatch, dataset, fits):
    monkeypatch.chdir(ROOT)
    config = OmegaConf.load("configs/train.yaml")
    config.device, config.log_dir = "cpu", str(tmp_path)
    monkeypatch.setattr(Trainer, "calibrate", lambda *_: 0.0)
    monkeypatch.setattr("flowshield.training.trainer.log_calibration", lambda *_: None)
    trainer = Trainer(config)
    trainer.train(dataset)
    trainer.train_udrl(dataset, n_epochs=7)
    trainer.train_shield(dataset, "quantile", 8)
    settings = [arguments[3] for arguments, _ in fits]
    assert [each.n_epochs for each in settings] == [200, 100, 7, 8]
    assert [each.batch_size for each in settings] == 4 * [256]
    assert [each.learning_rate for each in settings] == [1e-4, 1e-3, 1e-4, 2e-3]
    assert all(each.checkpoint_every == 10 for each in settings)
    assert len({each.seed for each in settings[:2]}) == 2  # a stream of its own for each model


def test_one_of_the_two_may_be_left_out(tmp_path, dataset):
    trainer = Trainer(make_config(tmp_path))
    assert trainer.train(dataset, train_udrl=False, train_shield=False) == (None, None)
    agent, shield = trainer.train(dataset, train_shield=False)
    assert isinstance(agent, UDRLAgent) and shield is None


@pytest.mark.parametrize("shield_type", ["quantile", "mixture", "diffusion", "flow_matching"])
def test_every_shield_comes_calibrated_with_the_configs_projection(tmp_path, dataset, shield_type):
    config = make_config(tmp_path, projection={"horizon_weight": 0.125})
    trainer = Trainer(config)
    shield = trainer.train_shield(dataset, shield_type, n_epochs=1)
    assert shield.shield_type == shield_type
    assert shield.projection.horizon_weight == 0.125
    parts = trainer.split(dataset)
    assert shield.calibration.n == (parts["calibration"].n_episodes,)
    train = torch.from_numpy(parts["train"].states)
    torch.testing.assert_close(shield.state_standardizer.mean, train.mean(dim=0))


def test_the_config_says_what_is_promised_and_by_which_score(tmp_path, dataset):
    changes = {"unit": "episode", "groups": 2, "score": "achievability", "alpha": 0.2}
    trainer = Trainer(make_config(tmp_path, calibration=changes))
    shield = trainer.train_shield(dataset, "quantile", n_epochs=1)
    made = shield.calibration
    assert (made.unit, made.alpha, made.score) == ("episode", 0.2, "achievability")
    assert shield.score_type == "achievability" and len(made.thresholds) == 2
    # the groups are those of the training episodes: exactness costs no calibration episode
    train = torch.from_numpy(trainer.split(dataset)["train"].states)
    expected = shield.fit_groups(train, 2, trainer.config.seed)
    torch.testing.assert_close(made.groups.centers, expected.centers)


# ---------------------------------------------------------------- data


def test_parts_are_disjoint_by_episode_and_keep_to_their_purpose(tmp_path, dataset, fits):
    trainer = Trainer(make_config(tmp_path))
    parts = {name: episodes(part) for name, part in trainer.split(dataset).items()}
    assert set(parts) == {"train", "validation", "calibration", "test"}
    assert sum(map(len, parts.values())) == N_EPISODES == len(set.union(*parts.values()))
    assert [len(part) / N_EPISODES for part in parts.values()] == pytest.approx(
        [0.65, 0.1, 0.15, 0.1], abs=0.01
    )
    agent = trainer.train_udrl(dataset)
    _, train, validation, _ = fits[0][0]
    assert episodes(train) == parts["train"]
    assert episodes(validation) == parts["validation"]
    torch.testing.assert_close(agent.state_standardizer.mean, train.states.mean(dim=0))
    torch.testing.assert_close(agent.command_standardizer.mean, train.commands.mean(dim=0))


def test_the_unit_of_actions_is_that_of_the_data_where_they_use_little_of_their_bounds(tmp_path):
    wide = make_dataset(metadata={"action_low": [-1e3, -1.0], "action_high": [1e3, 1.0]})
    agent = Trainer(make_config(tmp_path, n_epochs=1)).train_udrl(wide)
    own, bounds = agent.action_scale.tolist()
    assert own == pytest.approx(wide.actions[:, 0].std(), rel=0.05) and bounds == 1.0


def test_calibration_takes_one_step_of_each_calibration_episode(tmp_path, dataset, monkeypatch):
    seen = []
    score = BaseShield.score

    def spy(shield, state, command):
        seen.append(state)
        return score(shield, state, command)

    monkeypatch.setattr(BaseShield, "score", spy)
    trainer = Trainer(make_config(tmp_path))
    trainer.train_shield(dataset, "quantile", n_epochs=1)
    drawn = seen[0][:, 0].tolist()
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == episodes(trainer.split(dataset)["calibration"])


def test_action_bounds_are_the_environments_where_they_are_known(tmp_path, dataset, fits):
    trainer = Trainer(make_config(tmp_path))
    known = make_dataset(metadata={"action_low": [-2.0, -3.0], "action_high": [2.0, 3.0]})
    assert trainer.train_udrl(known).action_high.tolist() == [2.0, 3.0]
    unknown = trainer.train_udrl(dataset)
    assert unknown.action_low.tolist() == dataset.actions.min(axis=0).tolist()


# ---------------------------------------------------------------- seeds


def test_the_seed_alone_decides_the_weights(tmp_path, dataset):
    """Whatever was trained before, and wherever the user's own random numbers are."""
    first = Trainer(make_config(tmp_path / "a"))
    agent, shield = first.train(dataset)
    torch.rand(11)
    before = torch.get_rng_state()
    second = Trainer(make_config(tmp_path / "b"))
    second.train_shield(dataset, "quantile")
    shield_again = second.train_shield(dataset)
    agent_again = second.train_udrl(dataset)
    assert torch.equal(weights(agent), weights(agent_again))
    assert torch.equal(weights(shield), weights(shield_again))
    assert torch.equal(shield.threshold, shield_again.threshold)
    assert torch.equal(torch.get_rng_state(), before)

    other = Trainer(make_config(tmp_path / "c", seed=7)).train_udrl(dataset)
    assert not torch.equal(weights(agent), weights(other))


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, dataset):
    class Killed(Exception):
        pass

    def kill(name, record):
        if record["epoch"] == 3:
            raise Killed

    changes = {"n_epochs": 4, "checkpoint_every": 1}
    whole = Trainer(make_config(tmp_path / "a", **changes)).train_udrl(dataset)
    config = make_config(tmp_path / "b", **changes)
    with pytest.raises(Killed):
        Trainer(config, on_epoch=kill).train_udrl(dataset)
    records = []
    trainer = Trainer(config, resume=True, on_epoch=lambda name, r: records.append((name, r)))
    resumed = trainer.train_udrl(dataset)
    assert torch.equal(weights(resumed), weights(whole))
    assert [(name, record["epoch"]) for name, record in records] == [
        ("agent", epoch) for epoch in (1, 2, 3, 4)
    ]


# ---------------------------------------------------------------- bad input


def test_too_few_calibration_episodes_are_refused_before_any_training(tmp_path, fits):
    trainer = Trainer(make_config(tmp_path))
    few = make_dataset(40)
    for train in (trainer.train, trainer.train_shield):
        with pytest.raises(DataError, match="needs at least 19 calibration episodes, got 6") as no:
            train(few)
    total = int(re.search(r"collect at least (\d+) in all", str(no.value))[1])
    trainer.check_episodes(total)
    with pytest.raises(DataError, match="19 calibration episodes, got 18"):
        trainer.check_episodes(total - 1)
    assert not fits


def test_an_unknown_shield_lists_the_near_ones(tmp_path, dataset, fits):
    trainer = Trainer(make_config(tmp_path))
    with pytest.raises(ConfigError, match="unknown shield 'quantil': did you mean 'quantile'"):
        trainer.train_shield(dataset, "quantil")
    assert not fits


def test_a_config_without_shield_is_refused_before_any_training(tmp_path, dataset, fits):
    config = make_config(tmp_path)
    config.shield = {}
    trainer = Trainer(config)
    with pytest.raises(ConfigError, match="shield: the config names none"):
        trainer.train(dataset)
    assert not fits


@pytest.mark.parametrize("n_epochs", [0, -1])
def test_epochs_below_one_are_refused(tmp_path, dataset, n_epochs):
    trainer = Trainer(make_config(tmp_path))
    with pytest.raises(ConfigError, match=f"n_epochs: expected .* at least 1, got {n_epochs}"):
        trainer.train_udrl(dataset, n_epochs=n_epochs)
    with pytest.raises(ConfigError, match=f"n_epochs: expected .* at least 1, got {n_epochs}"):
        trainer.train_shield(dataset, n_epochs=n_epochs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_workers": -1}, "num_workers"),
        ({"ray": {"num_workers": [2, 1]}}, "ray.num_workers"),
        ({"device": "cuda:99"}, "'cuda:99' asked for, but this machine has"),
        ({"bach_size": 3}, "bach_size.*batch_size"),
        ({"n_epochs": 0}, "n_epochs"),
    ],
)
def test_configs_that_cannot_be_used_are_refused(tmp_path, changes, words):
    config = OmegaConf.to_container(make_config(tmp_path)) | changes
    with pytest.raises(ConfigError, match=words):
        Trainer(config)


@pytest.mark.parametrize(
    ("num_workers", "ray_workers", "expected"),
    [(0, None, 0), (2, None, 2), (2, 0, 0), (0, 3, 3), (0, [1, 4], (1, 4))],
)
def test_rays_number_of_workers_goes_before_the_plain_one(
    tmp_path, num_workers, ray_workers, expected
):
    config = make_config(tmp_path, num_workers=num_workers)
    config.ray.num_workers = ray_workers
    assert asked_workers(config) == expected


def test_cuda_graph_on_a_cpu_is_refused(tmp_path, dataset):
    with pytest.raises(ConfigError, match="cuda_graph=true needs one CUDA device"):
        Trainer(make_config(tmp_path, cuda_graph=True)).train_udrl(dataset)


# ---------------------------------------------------------------- a judge and a worker


def test_a_judge_and_a_worker_are_handed_to_the_fit(tmp_path, dataset):
    class Listener(InProcessWorker):
        def __init__(self):
            self.told = []

        def report(self, record, checkpoint):
            self.told.append((record["score"], checkpoint))

    listener, config = Listener(), make_config(tmp_path, checkpoint_every=2)
    trainer = Trainer(config, worker=listener)
    shield = trainer.train_shield(dataset, "mixture", judge=lambda shield: {"score": 7.0})
    folder = tmp_path / "logs" / "checkpoints" / "mixture"
    assert listener.told == [(7.0, None), (7.0, folder)]
    plain = Trainer(config, checkpoint_dir=tmp_path / "plain").train_shield(dataset, "mixture")
    assert torch.equal(weights(shield), weights(plain))
    assert [r["score"] for r in trainer.results["mixture"].history] == [7.0, 7.0]
    with pytest.raises(ConfigError, match="num_workers=0"):
        Trainer(make_config(tmp_path, num_workers=1)).train_shield(dataset, judge=lambda _: {})
