"""Discrete actions from the environment to the file, the batch and back to an agent."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from flowshield.data import DataCollector, TrajectoryDataset, rollout
from flowshield.data.arrow import arrays_of, table_of
from flowshield.envs import make_env, wrap_env
from flowshield.errors import ConfigError, DataError, ShapeError
from flowshield.evaluation import evaluate_agent, run_episode
from flowshield.models import UDRLAgent
from flowshield.training import Trainer


class TwoArms(gym.Env):
    """Three steps; the second of two arms pays 1, the first nothing. The state is the time."""

    observation_space = gym.spaces.Box(0.0, 3.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action) and isinstance(action, int)
        self.time += 1
        return np.full(1, self.time, np.float32), float(action), self.time == 3, False, {}


def two_arms():
    return wrap_env(gym.wrappers.TimeLimit(TwoArms(), 5), name="two_arms")


@pytest.fixture(scope="module")
def collected():
    return DataCollector(two_arms()).collect(400, seed=1)


TINY = {
    "n_epochs": 12,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "model": {"hidden_dim": 16, "n_layers": 2},
    "shield": {"mixture": {"hidden_dim": 16, "n_layers": 2, "n_components": 3}},
}


@pytest.fixture(scope="module")
def trained(collected, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_arms")
    return Trainer(TINY, checkpoint_dir=folder).train_udrl(collected)


def test_the_dataset_says_that_its_actions_are_discrete(collected):
    assert collected.actions.dtype == np.int64 and collected.actions.shape == (1200, 1)
    assert collected.n_actions == collected.metadata["n_actions"] == 2
    assert "action_low" not in collected.metadata
    assert set(np.unique(collected.actions)) == {0, 1}
    np.testing.assert_array_equal(collected.rewards, collected.actions[:, 0])
    _, actions, _ = collected.get_hindsight_batch(7)
    assert actions.dtype == torch.int64 and actions.shape == (7, 1)


@pytest.mark.parametrize("suffix", ["npz", "pkl", "parquet"])
def test_discrete_actions_come_back_from_a_file(collected, suffix, tmp_path):
    path = tmp_path / f"data.{suffix}"
    collected.save(path)
    same_arrays(TrajectoryDataset(path), collected)


def test_discrete_actions_come_back_from_arrow_blocks(collected):
    halves = [collected.subset(range(200)), collected.subset(range(200, 400))]
    arrays = arrays_of([table_of(half._arrays) for half in halves], "blocks", collected.metadata)
    same_arrays(TrajectoryDataset._from_checked(arrays), collected)


def same_arrays(came, sent):
    assert came.n_actions == sent.n_actions == 2 and came.actions.dtype == np.int64
    for name in ("states", "actions", "rewards", "terminated", "truncated", "final_states"):
        np.testing.assert_array_equal(getattr(came, name), getattr(sent, name))


def test_the_agent_obeys_in_the_two_armed_chain(trained):
    assert trained.n_actions == 2
    for wish in (0, 3):  # only one way to get each, whether the likeliest arm is taken or drawn
        for deterministic in (True, False):
            envs = [two_arms() for _ in range(8)]
            cell = evaluate_agent(
                trained, envs, (3, wish), n_episodes=8, deterministic=deterministic
            )
            assert np.mean(cell.returns) == pytest.approx(wish, abs=0.5 if not deterministic else 0)
    for wish in (1, 2):
        assert run_episode(two_arms(), trained, (3, wish)).episode.total_return == wish


def test_draws_follow_from_the_seed(trained):
    def actions(seed):
        played = run_episode(two_arms(), trained, (3, 1.5), seed=seed, deterministic=False)
        return played.episode.actions[:, 0].tolist()

    first = [actions(seed) for seed in range(12)]
    assert first == [actions(seed) for seed in range(12)]
    assert len(set(map(tuple, first))) > 1


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        ([[0], [1], [2]], DataError, r"actions 0..1, got 2 \(1 such"),
        ([[0], [-1], [1]], DataError, "got -1"),
        ([[0], [0.5], [1]], DataError, "got 0.5"),
        ([[0, 1]] * 3, ShapeError, r"expected actions \[3, 1\], got shape \[3, 2\]"),
    ],
)
def test_actions_that_there_are_not_are_refused(actions, error, message):
    with pytest.raises(error, match=message):
        dataset_of(actions)


def test_a_flat_row_of_actions_is_taken_and_a_senseless_number_of_them_refused():
    assert dataset_of([1, 0, 1]).actions.tolist() == [[1], [0], [1]]
    for n_actions in (0, 2.0, "two", True, 10**9):
        with pytest.raises(DataError, match="expected n_actions in 1..65536"):
            dataset_of([[0]] * 3, n_actions)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8, bool])
def test_actions_are_recognised_in_every_type_without_a_warning(dtype, tmp_path):
    numbers = {"rewards": np.ones(3), "terminated": [0, 0, 1]}
    np.savez(
        tmp_path / "mine.npz",
        states=np.zeros((3, 2)),
        actions=np.eye(2, dtype=dtype)[[0, 1, 0], 1],
        **numbers,
    )
    dataset = TrajectoryDataset(tmp_path / "mine.npz")
    assert dataset.n_actions == 2 and dataset.actions.tolist() == [[0], [1], [0]]


def dataset_of(actions, n_actions=2):
    return TrajectoryDataset.from_arrays(
        np.zeros((3, 2)), actions, np.ones(3), [0, 0, 1], metadata={"n_actions": n_actions}
    )


class Fixed:
    def __init__(self, action):
        self.action = action

    def begin(self, states): ...

    def observe(self, rewards, rows): ...

    def act(self, states, rows):
        return np.array([self.action] * len(rows))


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        ([2], DataError, r"action 2 in environment 'two_arms'.*whole number in 0..1"),
        ([0.5], DataError, "action 0.5"),
        ([np.nan], DataError, "action nan"),
        ([0, 1], ShapeError, r"expected \[1, 1\]"),
    ],
)
def test_a_policy_that_chooses_what_there_is_not_is_refused(action, error, message):
    with pytest.raises(error, match=message):
        rollout([two_arms()], Fixed(action), [0])


def test_a_policy_may_return_a_bare_number():
    for policy in (lambda state: 1, lambda state: np.array([1])):
        assert DataCollector(two_arms(), policy).collect(1).actions.tolist() == [[1], [1], [1]]


def test_noise_cannot_be_added_to_a_choice():
    noisy = {"components": [{"kind": "noisy_controller", "weight": 1, "levels": [0.1]}]}
    with pytest.raises(ConfigError, match="use epsilon_random"):
        DataCollector(make_env("cartpole"), behaviour=noisy).collect(1)


def test_an_agent_of_other_actions_is_refused(trained):
    with pytest.raises(ConfigError, match="trained for 2 discrete ones.*has 1 continuous actions"):
        run_episode(make_env("Pendulum-v1"), trained, (3, 1))
    with pytest.raises(ConfigError, match="trained for 2 continuous actions.*has 2 discrete ones"):
        run_episode(make_env("cartpole"), UDRLAgent(4, 2), (3, 1))
