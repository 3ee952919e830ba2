"""What the lander's file claims to know, against the physics."""

import numpy as np
import pytest

from flowshield.data import DataCollector
from flowshield.envs import LunarLanderWrapper, make_env
from flowshield.errors import ConfigError, ShapeError

MIXED = {
    "components": [
        {"kind": "controller", "weight": 0.3},
        {"kind": "noisy_controller", "weight": 0.2, "levels": [0.2]},
        {"kind": "epsilon_random", "weight": 0.2, "levels": [0.3, 0.8]},
        {"kind": "takeover", "weight": 0.2, "levels": [20, 60]},
        {"kind": "random", "weight": 0.1},
    ]
}


@pytest.fixture(scope="module")
def mixed():
    return DataCollector(make_env("lunarlander"), behaviour=MIXED).collect(220, seed=3)


def test_no_step_of_220_mixed_episodes_exceeds_the_bound(mixed):
    slack = make_env("lunarlander").return_bound(mixed.states) - mixed.commands[:, 1]
    assert slack.min() > -1e-3
    # A bound that nothing comes near would show nothing: a landing uses up all but its fuel.
    assert slack.min() < 1.0


def test_the_bound_is_near_at_the_start_of_good_episodes(mixed):
    good = np.flatnonzero(mixed.episode_returns > 250)
    starts = mixed.episode_starts[good]
    bound = make_env("lunarlander").return_bound(mixed.states[starts])
    assert np.median(bound - mixed.episode_returns[good]) < 45
    assert len(good) > 30


def test_bound_at_states_worked_out_by_hand():
    env = make_env("lunarlander")
    at_rest = [0, 0, 0, 0, 0, 0, 1, 1]
    flying = [0.3, 0.4, 0.6, -0.8, -0.5, 9.0, 1, 0]  # Phi = -50 - 100 - 50 + 10
    np.testing.assert_allclose(env.return_bound(np.array([[at_rest], [flying]])), [[100], [310]])


def test_no_bound_in_the_wind():
    env = make_env("lunarlander", enable_wind=True)
    assert env.return_bound(np.zeros((3, 8))) is None


def test_bound_checks_the_shape():
    with pytest.raises(ShapeError):
        make_env("lunarlander").return_bound(np.zeros((2, 7)))


def play(env, policy, seed):
    state, _ = env.reset(seed=seed)
    total = 0.0
    while True:
        state, reward, terminated, truncated, _ = env.step(policy(state))
        total += reward
        if terminated or truncated:
            return total, reward, terminated


def test_crash_agrees_with_the_physics():
    env = make_env("lunarlander", max_episode_steps=400)
    rng = np.random.default_rng(0)

    def swaying(state):
        noise = rng.uniform(-1, 1, 2)
        return noise if rng.random() < 0.6 else env.controller(state)

    seen = set()
    for seed in range(40):
        _, reward, terminated = play(env, swaying, seed)
        lander = env.unwrapped
        outside = abs(lander.lander.position.x - 10) >= 10  # half of the 20 units of the picture
        physics = bool((lander.game_over or outside) and lander.lander.awake)
        assert env.crashed(terminated, reward) == physics
        seen.add(physics)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("terminated", "reward", "crash"),
    [(True, -100, True), (False, -100, False), (True, 100, False), (True, -99.9, False)],
)
def test_crash_needs_both_the_end_and_its_reward(terminated, reward, crash):
    assert make_env("lunarlander").crashed(terminated, reward) is crash


def test_the_controller_lands():
    env = make_env("lunarlander")
    assert env.has_controller
    assert env.knows_crash
    returns = [play(env, env.controller, seed)[0] for seed in range(10)]
    assert min(returns) > 200


def test_controller_gives_float32_inside_the_bounds():
    env = make_env("lunarlander")
    for state in np.random.default_rng(0).normal(size=(50, 8)):
        action = env.controller(state)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)


def test_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match="continuous=False"):
        LunarLanderWrapper(continuous=False)
    with pytest.raises(ConfigError, match="'lunarlander'"):
        make_env("lunarlander_discrete", continuous=True)


def test_the_discrete_lander_lands_and_has_the_same_bound():
    env = make_env("lunarlander_discrete")
    assert (env.name, env.state_dim, env.n_actions) == ("lunarlander_discrete", 8, 4)
    dataset = DataCollector(env, env.controller).collect(6, seed=2)
    assert np.median(dataset.episode_returns) > 200
    bound = env.return_bound(dataset.states)
    assert (dataset.commands[:, 1] <= bound).all()
    np.testing.assert_array_equal(bound, make_env("lunarlander").return_bound(dataset.states))
    again = make_env(env.name, **env.make_kwargs)
    np.testing.assert_array_equal(again.reset(seed=5)[0], env.reset(seed=5)[0])
