"""Behaviour policies: what each kind does, how mixtures draw, and what a config may say."""

from collections import Counter
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf

from flowshield.config import compose
from flowshield.data import MixtureBehaviour, as_behaviour
from flowshield.envs import ContinuousEnvWrapper, list_envs, make_env
from flowshield.errors import ConfigError

NEEDED = {"hopper": "mujoco", "highway": "highway_env"}  # packages, by environment
CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "behaviour").glob("*.yaml"))
HALF = np.array([0.5], np.float32)


class Steady(ContinuousEnvWrapper):
    """Pendulum (actions in [-2, 2]) with a controller that always says 0.5."""

    has_controller = True

    def controller(self, state):
        return HALF


@pytest.fixture
def env():
    return Steady("Pendulum-v1")


def mixture(*components):
    return MixtureBehaviour.from_config({"components": list(components)})


def actions_of(env, kind, level=None, n=4000, seed=0):
    entry = {"kind": kind, "weight": 1} | ({} if level is None else {"levels": [level]})
    drawn = mixture(entry).draw(env, np.random.default_rng(seed))
    assert drawn.behaviour == kind
    np.testing.assert_equal(drawn.level, np.nan if level is None else level)
    return np.array([drawn.act(np.zeros(3, np.float32)) for _ in range(n)])[:, 0]


def test_random_is_uniform_over_the_action_space(env):
    actions = actions_of(env, "random")
    counts, _ = np.histogram(actions, bins=8, range=(-2, 2))
    assert counts.sum() == 4000
    assert np.abs(counts / 500 - 1).max() < 0.2  # four standard deviations


def test_controller_acts_alone(env):
    assert set(actions_of(env, "controller", n=20)) == {0.5}


def test_noise_is_gaussian_around_the_controller(env):
    actions = actions_of(env, "noisy_controller", 0.3)
    assert actions.mean() == pytest.approx(0.5, abs=0.02)
    assert actions.std() == pytest.approx(0.3, rel=0.05)


def test_noise_is_clipped_to_the_bounds(env):
    actions = actions_of(env, "noisy_controller", 50.0, n=100)
    assert actions.min() == -2
    assert actions.max() == 2


def test_epsilon_is_the_share_of_random_steps(env):
    actions = actions_of(env, "epsilon_random", 0.3)
    assert (actions != 0.5).mean() == pytest.approx(0.3, abs=0.03)


def test_takeover_is_random_for_exactly_its_first_steps(env):
    actions = actions_of(env, "takeover", 7, n=20)
    assert (actions[:7] != 0.5).all()
    assert (actions[7:] == 0.5).all()


def test_a_takeover_counts_anew_in_every_episode(env):
    behaviour, rng = (
        mixture({"kind": "takeover", "weight": 1, "levels": [2]}),
        np.random.default_rng(0),
    )
    for _ in range(2):
        act = behaviour.draw(env, rng).act
        assert [act(np.zeros(3)) is HALF for _ in range(4)] == [False, False, True, True]


def test_weights_and_levels_are_drawn_in_their_shares(env):
    behaviour = mixture(
        {"kind": "random", "weight": 3},
        {"kind": "takeover", "weight": 1, "levels": [1, 2]},
    )
    rng = np.random.default_rng(0)
    draws = [behaviour.draw(env, rng) for _ in range(4000)]
    shares = Counter((draw.behaviour, str(draw.level)) for draw in draws)
    assert set(shares) == {("random", "nan"), ("takeover", "1.0"), ("takeover", "2.0")}
    assert shares["random", "nan"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert shares["takeover", "1.0"] / 4000 == pytest.approx(0.125, abs=0.025)


def test_draws_repeat_with_their_generator(env):
    first, second = (actions_of(env, "epsilon_random", 0.5, n=50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configs_are_read_and_described(path):
    composed = compose("run", [f"behaviour={path.stem}"]).behaviour
    config = OmegaConf.to_container(composed)
    behaviour = MixtureBehaviour.from_config(config)
    assert behaviour.describe() == config
    assert MixtureBehaviour.from_config(behaviour.describe()) == behaviour
    if path.stem in NEEDED:
        pytest.importorskip(NEEDED[path.stem])
    env = make_env(path.stem if path.stem in list_envs() else "lunarlander")
    drawn = behaviour.draw(env, np.random.default_rng(0))
    assert np.shape(drawn.act(np.zeros(env.state_dim, np.float32))) == (env.action_dim,)


def test_there_are_shipped_configs():
    assert {"expert", "mixed"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "non-empty list `components`"),
        ({"components": []}, "non-empty list `components`"),
        ({"components": "random"}, "non-empty list `components`"),
        ({"component": []}, "did you mean 'components'"),
        ({"components": ["random"]}, r"components\[0\].*got 'random'"),
        ({"components": [{"kind": "controler", "weight": 1}]}, "did you mean 'controller'"),
        ({"components": [{"weight": 1}]}, "unknown behaviour kind None"),
        ({"components": [{"kind": "random", "wieght": 1}]}, "did you mean 'weight'"),
        ({"components": [{"kind": "random"}]}, "weight > 0, got None"),
        ({"components": [{"kind": "random", "weight": 0}]}, "weight > 0, got 0"),
        ({"components": [{"kind": "random", "weight": float("nan")}]}, "weight > 0, got nan"),
        ({"components": [{"kind": "random", "weight": True}]}, "weight > 0, got True"),
        ({"components": [{"kind": "random", "weight": 1, "levels": [1]}]}, "has no levels"),
        ({"components": [{"kind": "takeover", "weight": 1}]}, "needs a non-empty list of levels"),
        ({"components": [{"kind": "takeover", "weight": 1, "levels": []}]}, "non-empty list"),
        ({"components": [{"kind": "takeover", "weight": 1, "levels": [1.5]}]}, "got 1.5"),
        ({"components": [{"kind": "takeover", "weight": 1, "levels": [-1]}]}, "got -1"),
        ({"components": [{"kind": "epsilon_random", "weight": 1, "levels": [1.1]}]}, "0..1"),
        ({"components": [{"kind": "noisy_controller", "weight": 1, "levels": ["a"]}]}, "got 'a'"),
        ({"components": [{"kind": "noisy_controller", "weight": 1, "levels": [-0.1]}]}, "-0.1"),
    ],
)
def test_bad_configs(config, message):
    with pytest.raises(ConfigError, match=message):
        MixtureBehaviour.from_config(config)


def test_a_missing_controller_is_found_whatever_is_drawn():
    behaviour = mixture({"kind": "random", "weight": 1e9}, {"kind": "controller", "weight": 1e-9})
    with pytest.raises(ConfigError, match="'controller' needs a controller.*'MountainCar-v0'"):
        behaviour.draw(make_env("MountainCar-v0"), np.random.default_rng(0))


def test_nothing_is_uniform_over_unbounded_actions():
    class Unbounded(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (2,))
        action_space = gym.spaces.Box(-np.inf, np.inf, (1,))

    with pytest.raises(ConfigError, match="unbounded actions"):
        as_behaviour(None).draw(ContinuousEnvWrapper(Unbounded()), np.random.default_rng(0))


def test_any_callable_is_a_behaviour(env):
    def push_left(state):
        return [-1.0]

    drawn = as_behaviour(push_left).draw(env, np.random.default_rng(0))
    assert (drawn.behaviour, drawn.act) == ("push_left", push_left)
    assert np.isnan(drawn.level)


def test_none_is_random_and_a_behaviour_is_itself():
    random = as_behaviour(None)
    assert random.describe() == {"components": [{"kind": "random", "weight": 1.0}]}
    assert as_behaviour(random) is random


def test_what_is_no_behaviour():
    with pytest.raises(ConfigError, match="got 'expert'"):
        as_behaviour("expert")
