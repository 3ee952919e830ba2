"""The rollout on environments whose every number is known."""

import gymnasium as gym
import numpy as np
import pytest

from flowshield.data import rollout
from flowshield.envs import ContinuousEnvWrapper, make_env
from flowshield.errors import ConfigError, DataError, ShapeError


class Counter(gym.Env):
    """Counts its steps: state (seed, step), reward = action, ends after `length` steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length=3, bad_state_at=None, bad_reward_at=None):
        self.length, self.bad_state_at, self.bad_reward_at = length, bad_state_at, bad_reward_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.t = seed, 0
        return self._state(), {}

    def step(self, action):
        self.t += 1
        reward = np.nan if self.t == self.bad_reward_at else float(action[0])
        return self._state(), reward, self.t == self.length, False, {}

    def _state(self):
        return np.array([self.start, np.nan if self.t == self.bad_state_at else self.t], np.float32)


class Scripted:
    """Acts 0.1 * (row + 1) and writes down every call."""

    def __init__(self):
        self.begun, self.acted, self.observed = [], [], []

    def begin(self, states):
        self.begun.append(states.copy())

    def act(self, states, rows):
        self.acted.append((states.copy(), rows.copy()))
        return 0.1 * (rows[:, None] + 1)

    def observe(self, rewards, rows):
        self.observed.append((rewards.copy(), rows.copy()))


class Constant(Scripted):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def act(self, states, rows):
        return np.broadcast_to(self.value, (len(rows), 1))


def counters(*lengths, limit=10, **kwargs):
    return [
        ContinuousEnvWrapper(gym.wrappers.TimeLimit(Counter(length, **kwargs), limit))
        for length in lengths
    ]


def test_finished_episodes_drop_out_and_the_record_keeps_them_apart():
    policy = Scripted()
    episodes = rollout(counters(2, 4, 1), policy, [7, 8, 9], indices=[70, 80, 90])
    np.testing.assert_array_equal(policy.begun, [[[7, 0], [8, 0], [9, 0]]])
    assert [rows.tolist() for _, rows in policy.acted] == [[0, 1, 2], [0, 1], [1], [1]]
    assert [rows.tolist() for _, rows in policy.observed] == [[0, 1, 2], [0, 1], [1], [1]]
    np.testing.assert_allclose(policy.observed[1][0], [0.1, 0.2])
    assert [episode.length for episode in episodes] == [2, 4, 1]
    assert [episode.index for episode in episodes] == [70, 80, 90]
    np.testing.assert_array_equal(episodes[1].states, [[8, 0], [8, 1], [8, 2], [8, 3]])
    np.testing.assert_array_equal(episodes[1].final_state, [8, 4])
    np.testing.assert_allclose(episodes[0].actions, [[0.1], [0.1]])
    np.testing.assert_allclose(episodes[2].rewards, [0.3])
    assert episodes[1].total_return == pytest.approx(0.8)
    assert all(episode.terminated and not episode.truncated for episode in episodes)


def test_an_environment_plays_its_episodes_one_after_the_other():
    policy = Scripted()
    episodes = rollout(counters(2, 3), policy, [7, 8, 9, 10, 11])
    np.testing.assert_array_equal(policy.begun[0][:2], [[7, 0], [8, 0]])
    assert policy.begun[0].shape == (5, 2) and np.isnan(policy.begun[0][2:]).all()
    live = [rows.tolist() for _, rows in policy.acted]
    assert live == [[0, 1], [0, 1], [2, 1], [2, 3], [4, 3], [4, 3]]
    np.testing.assert_array_equal(policy.acted[2][0], [[9, 0], [8, 2]])
    assert [episode.length for episode in episodes] == [2, 3, 2, 3, 2]
    assert [episode.states[0, 0] for episode in episodes] == [7, 8, 9, 10, 11]
    assert [episode.final_state.tolist() for episode in episodes][1:3] == [[8, 3], [9, 2]]
    np.testing.assert_allclose(episodes[3].actions, 3 * [[0.4]])


def test_the_step_limit_counts_from_each_episodes_own_start():
    env = ContinuousEnvWrapper(Counter(10**9))
    env.max_episode_steps = 6
    episodes = rollout([env], Scripted(), [0, 1, 2])
    assert [(episode.length, episode.truncated) for episode in episodes] == 3 * [(6, True)]


def test_nan_in_a_later_episode_names_its_own_step():
    class Late(Scripted):
        def act(self, states, rows):
            return np.where(states[:, :1] + states[:, 1:] == 8 + 1, np.nan, 0.0)

    with pytest.raises(DataError, match=r"action \[nan\].*episode 71, step 1"):
        rollout(counters(3), Late(), [6, 8], indices=[70, 71])


def test_types_of_the_record():
    (episode,) = rollout(counters(2), Scripted(), [0])
    assert (episode.states.dtype, episode.actions.dtype) == (np.float32, np.float32)
    assert episode.rewards.dtype == np.float64


def test_rewards_keep_their_double_precision():
    env = make_env("Pendulum-v1", max_episode_steps=3)
    (episode,) = rollout([env], Constant(0.5), [0])
    assert (episode.rewards != episode.rewards.astype(np.float32)).any()


def test_a_time_limit_truncates():
    (episode,) = rollout(counters(99, limit=5), Scripted(), [0])
    assert (episode.length, episode.terminated, episode.truncated) == (5, False, True)


def test_an_environment_that_ignores_its_own_limit_is_truncated():
    env = ContinuousEnvWrapper(Counter(10**9))
    env.max_episode_steps = 6
    (episode,) = rollout([env], Scripted(), [0])
    assert (episode.length, episode.truncated) == (6, True)


def test_ending_at_the_limit_is_no_truncation():
    env = ContinuousEnvWrapper(Counter(6))
    env.max_episode_steps = 6
    (episode,) = rollout([env], Scripted(), [0])
    assert (episode.terminated, episode.truncated) == (True, False)


def test_an_environment_without_limit_is_refused():
    with pytest.raises(ConfigError, match="'Counter' has no step limit.*max_episode_steps"):
        rollout([ContinuousEnvWrapper(Counter())], Scripted(), [0])


def test_actions_are_clipped_before_they_are_carried_out_and_recorded():
    (episode,) = rollout(counters(2), Constant(7.0), [0])
    np.testing.assert_array_equal(episode.actions, [[1.0], [1.0]])
    np.testing.assert_array_equal(episode.rewards, [1.0, 1.0])


@pytest.mark.parametrize("value", [np.nan, np.array([[np.nan], [0.0]])])
def test_nan_actions_name_episode_and_step(value):
    with pytest.raises(DataError, match=r"policy.*action \[nan\].*'Counter'.*episode 4, step 0"):
        rollout(counters(3, 3), Constant(value), [0, 1], indices=[4, 5])


def test_nan_states_name_episode_and_step():
    envs = [*counters(5), *counters(5, bad_state_at=3)]
    with pytest.raises(
        DataError, match=r"'Counter' gave the state \[1\.0, nan\] in episode 1, step 3"
    ):
        rollout(envs, Scripted(), [0, 1])


def test_a_nan_state_is_blamed_before_the_action_that_follows_from_it():
    class Echo(Scripted):
        def act(self, states, rows):
            return states[:, 1:] * 0

    with pytest.raises(DataError, match="gave the state.*step 2"):
        rollout(counters(5, bad_state_at=2), Echo(), [0])


def test_a_nan_final_state_is_found():
    with pytest.raises(DataError, match="state.*step 3"):
        rollout(counters(3, bad_state_at=3), Scripted(), [0])


def test_nan_rewards_name_episode_and_step():
    with pytest.raises(DataError, match="reward nan.*episode 0, step 1"):
        rollout(counters(5, bad_reward_at=2), Scripted(), [0])


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e300])
def test_a_reward_is_blamed_before_the_command_that_follows_from_it(reward):
    """A commanded policy takes each reward off its command: the next action would be NaN, too."""

    class Commanded(Scripted):
        command = 0.0

        def act(self, states, rows):
            return np.full((len(rows), 1), np.float32(self.command) * 0)

        def observe(self, rewards, rows):
            self.command -= rewards[0]

    class Odd(Counter):
        def step(self, action):
            state, _, *rest = super().step(action)
            return state, reward if self.t == 2 else 0.0, *rest

    envs = [ContinuousEnvWrapper(gym.wrappers.TimeLimit(Odd(5), 10))]
    with pytest.raises(DataError, match=r"gave the reward .*episode 0, step 1; .*mend the env"):
        rollout(envs, Commanded(), [0])


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_clipping_does_not_hide_an_infinite_action(value):
    with pytest.raises(DataError, match=r"policy gave the action \[-?inf\].*step 0"):
        rollout(counters(3), Constant(value), [0])


def test_a_reset_into_a_state_that_is_none_is_found():
    with pytest.raises(DataError, match="gave the state.*episode 0, step 0"):
        rollout(counters(3, bad_state_at=0), Scripted(), [0])


def test_wrong_action_shape():
    class Flat(Scripted):
        def act(self, states, rows):
            return np.zeros(len(rows))

    with pytest.raises(ShapeError, match=r"\[2\] for 2 states.*expected \[2, 1\]"):
        rollout(counters(3, 3), Flat(), [0, 1])


def test_environments_and_seeds_must_match():
    with pytest.raises(ConfigError, match="2 environments and 1 seeds"):
        rollout(counters(1, 1), Scripted(), [0])
    with pytest.raises(ConfigError, match="0 environments"):
        rollout([], Scripted(), [])
    with pytest.raises(ShapeError, match="one kind"):
        rollout([*counters(1), make_env("Pendulum-v1")], Scripted(), [0, 1])


def test_render_is_called_once_a_step(monkeypatch):
    calls = []
    monkeypatch.setattr(Counter, "render", lambda self: calls.append(self.t))
    envs = [ContinuousEnvWrapper(Counter(3))]
    envs[0].max_episode_steps = 9
    rollout(envs, Scripted(), [0], render=True)
    assert calls == [1, 2, 3]
    rollout(envs, Scripted(), [0])
    assert calls == [1, 2, 3]
