"""Data against the run's environment: actions of another range, or of a number that nobody said."""

import re

import gymnasium as gym
import numpy as np
import pytest

from flowshield.cli import main
from flowshield.config import compose
from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import ContinuousEnvWrapper, make_env, registry
from flowshield.errors import ConfigError
from flowshield.pipeline.dataset_check import check_dataset, fit_of

TRAIN = [
    "n_epochs=1", "shield_epochs=1", "model.hidden_dim=16", "calibration.alpha=0.2", "device=cpu",
    "ray.num_workers=0", "shield=quantile", "env=pendulum",
]  # fmt: skip
PENDULUM = r"range from \[{}\] to \[{}\], those of environment pendulum from \[-2\] to \[2\]"


def data_of(actions, state_dim=3, n_episodes=1, **metadata):
    actions = np.asarray(actions)
    ends = np.zeros(len(actions), bool)
    ends[len(actions) // n_episodes - 1 :: len(actions) // n_episodes] = True
    states = np.random.default_rng(0).normal(size=(len(actions), state_dim))
    rewards = states[:, 0]
    return TrajectoryDataset.from_arrays(states, actions, rewards, ends, metadata=metadata)


def spread(low, high, n=200):
    return np.random.default_rng(1).uniform(low, high, (n, np.size(low))).clip(low, high)


def to_its_ends(low, high):
    return np.concatenate([spread(low, high), [np.atleast_1d(low), np.atleast_1d(high)]])


@pytest.fixture(scope="module")
def pendulum():
    return compose("run", ["env=pendulum"])


ITS_OWN = {"action_low": [-2.0], "action_high": [2.0]}


@pytest.mark.parametrize(
    ("actions", "metadata", "why"),
    [
        (to_its_ends(-1, 1), {}, "mostly scaled"),
        (to_its_ends(-1, 1), ITS_OWN, "mostly scaled"),
        (spread(-0.999, 0.999), {}, "mostly scaled"),
        (to_its_ends(-1, 1), {"action_low": [-1.0], "action_high": [1.0]}, "mostly scaled"),
        (spread(0, 1), {}, "no more than half"),
        (spread(-0.02, 0.02), {}, "no more than half"),
        (to_its_ends(-2, 2), {"action_low": [-3.0], "action_high": [3.0]}, r"say \[-3\] to \[3\]"),
    ],
)
def test_another_range_within_the_bounds_is_a_doubt(pendulum, actions, metadata, why):
    doubt = check_dataset(data_of(actions, **metadata), pendulum)
    low, high = (f"{end:.4g}" for end in (actions.min(), actions.max()))
    assert re.search(f"{PENDULUM.format(low, high)}.*{why}.*scale them first", doubt)


@pytest.mark.parametrize(
    ("actions", "metadata"),
    [
        (to_its_ends(-2, 2), {}),
        (spread(-1.5, 1.5), {}),
        (to_its_ends(-2.001, 2.001), {}),  # what was rounded
        (
            spread(-0.3, 0.3),
            ITS_OWN,
        ),  # a gentle policy, whose data say what there was to choose from
        (to_its_ends(-2, 2), {"action_low": "odd", "action_high": [[1]]}),
    ],
)
def test_data_of_the_environments_own_range_raise_none(pendulum, actions, metadata):
    assert fit_of(data_of(actions, **metadata), pendulum) == (None, None)


@pytest.mark.parametrize(
    ("actions", "share"),
    [(to_its_ends(-5, 5), "5[0-9]"), (np.r_[spread(-2, 2, 199), [[2.5]]], "0.5")],
)
def test_actions_beyond_the_bounds_are_a_misfit(pendulum, actions, share):
    low, high = (rf"{end:.4g}" for end in (actions.min(), actions.max()))
    words = rf"{PENDULUM.format(low, high)}, and {share}[0-9.]*% of the steps have one beyond.*clip"
    with pytest.raises(ConfigError, match=words):
        check_dataset(data_of(actions), pendulum)


@pytest.mark.parametrize("name", ["pendulum", "lunarlander", "geometric_chain"])
@pytest.mark.parametrize("behaviour", [None, lambda state: 9.0 * np.ones(1 + (len(state) == 8))])
def test_what_is_collected_here_fits_itself(name, behaviour):
    """Also where a policy leaves the bounds: the record is clipped, as what is carried out."""
    dataset = DataCollector(make_env(name), behaviour).collect(3, seed=0)
    assert fit_of(dataset, compose("run", [f"env={name}"])) == (None, None)


class Arm(gym.Env):
    """Six joints of different bounds, the last of which has none."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Box(
        np.array([-0.4, -2, 0, -50, -1, -np.inf], np.float32),
        np.array([0.4, 2, 5, 50, 1, np.inf], np.float32),
    )


def test_each_component_has_a_range_of_its_own(monkeypatch):
    monkeypatch.setattr(registry, "_WRAPPERS", {"arm": lambda: ContinuousEnvWrapper(Arm())})
    config = compose("run", ["env.name=arm"])
    low, high = np.array([-0.4, -2, 0, -50, -1, -9]), np.array([0.4, 2, 5, 50, 1, 1000])
    assert fit_of(data_of(to_its_ends(low, high)), config) == (None, None)
    scaled = fit_of(data_of(to_its_ends(np.full(6, -1.0), np.full(6, 1.0))), config)
    assert "[-1, -1, -1, -1, ...] to [1, 1, 1, 1, ...]" in scaled.misfit
    assert "from [-0.4, -2, 0, -50, ...] to [0.4, 2, 5, 50, ...]" in scaled.misfit
    unbounded = np.stack([np.full(200, -0.1)] * 5 + [np.linspace(-99, 99, 200)], 1)
    assert fit_of(data_of(np.abs(unbounded)), config).misfit is None


@pytest.mark.parametrize("ends", [(-1, 1), (-3, 3)])
def test_it_is_said_before_training(tmp_path, capsys, ends):
    path = tmp_path / "data.npz"
    data_of(spread(*ends, 3000), n_episodes=60).save(path)
    said = "those of environment pendulum from [-2] to [2]"
    assert main(["train", *TRAIN, f"data.path={path}", f"run_dir={tmp_path / 'run'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (place,) = [i for i, line in enumerate(lines) if said in line]
    assert place < next(i for i, line in enumerate(lines) if "up to 1 epoch, " in line)
    assert lines[place].startswith("train  note: " if ends == (-1, 1) else "train  for later: ")
    if ends == (-3, 3):
        assert main(["run", *TRAIN, f"data.path={path}", f"run_dir={tmp_path / 'other'}"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line and not (tmp_path / "other" / "models").exists()


def test_a_number_of_actions_that_nobody_said(tmp_path, capsys):
    choices = np.tile([0, 2, 1, 2], 30)
    lander = compose("run", ["env=lunarlander_discrete"])
    with pytest.raises(
        ConfigError, match="3 discrete actions, .*4 discrete.*save n_actions=4 with"
    ):
        check_dataset(data_of(choices, 8), lander)
    assert fit_of(data_of(np.r_[choices, 3], 8), lander) == (None, None)
    with pytest.raises(ConfigError, match="if these are whole numbers, save n_actions=4"):
        check_dataset(data_of(choices[:, None] * 1.0, 8), lander)
    with pytest.raises(ConfigError, match="save action_low and action_high with the arrays"):
        check_dataset(data_of(choices, 3), compose("run", ["env=pendulum"]))
    np.savez(
        tmp_path / "data.npz",
        observations=np.random.default_rng(0).normal(size=(120, 4)),
        actions=choices % 2,
        rewards=np.ones(120),
        terminals=np.arange(120) % 2,
    )
    words = [f"data.path={tmp_path / 'data.npz'}", f"run_dir={tmp_path / 'run'}", "env=cartpole"]
    assert main(["train", *TRAIN[:-1], *words]) == 0
    assert "2 discrete actions (told by the highest action)" in capsys.readouterr().out
