"""The wrapper's sizes, normalization and refusals."""

import gymnasium as gym
import numpy as np
import pytest

from flowshield.cli import main
from flowshield.data import DataCollector
from flowshield.envs import ContinuousEnvWrapper, env_maker, make_env, wrap_env
from flowshield.errors import ConfigError, ShapeError


class Grid(gym.Env):
    """Observations of two dimensions, one of them unbounded; no step limit; not registered."""

    observation_space = gym.spaces.Box(
        np.array([[-2.0, 0.0], [-np.inf, 3.0]], np.float32),
        np.array([[4.0, 1.0], [np.inf, np.inf]], np.float32),
    )
    action_space = gym.spaces.Box(-3.0, 5.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones((2, 2), np.float32), {}

    def step(self, action):
        return np.ones((2, 2), np.float32), 0.0, False, False, {}


def test_sizes_of_pendulum():
    env = ContinuousEnvWrapper("Pendulum-v1")
    assert (env.state_dim, env.action_dim, env.max_episode_steps) == (3, 1, 200)
    assert env.name == "Pendulum-v1"
    assert env.action_low.dtype == np.float32
    np.testing.assert_array_equal([env.action_low, env.action_high], [[-2], [2]])


def test_observations_of_two_dimensions_are_flattened():
    env = ContinuousEnvWrapper(Grid())
    assert (env.state_dim, env.name, env.max_episode_steps) == (4, "Grid", None)
    state, _ = env.reset(seed=0)
    assert state.shape == (4,)


def test_bounded_dimensions_are_mapped_and_unbounded_ones_left():
    env = ContinuousEnvWrapper(Grid())
    states = np.array([[-2.0, 0.0, 17.0, 3.0], [4.0, 1.0, -8.0, 9.0], [1.0, 0.5, 0.0, 0.0]])
    expected = [[-1, -1, 17, 3], [1, 1, -8, 9], [0, 0, 0, 0]]
    np.testing.assert_array_equal(env.normalize_state(states), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_denormalize_undoes_normalize(dtype):
    env = make_env("lunarlander")
    states = np.random.default_rng(0).normal(size=(5, 7, 8)).astype(dtype)
    back = env.denormalize_state(env.normalize_state(states))
    assert back.dtype == dtype
    np.testing.assert_allclose(back, states, rtol=0, atol=32 * np.finfo(dtype).eps)


def test_wrong_state_shape():
    with pytest.raises(ShapeError, match=r"\[\.\.\., 8\].*got shape \[7\]"):
        make_env("lunarlander").normalize_state(np.zeros(7))


def test_step_limit_of_a_time_limit_around_an_unregistered_environment():
    env = ContinuousEnvWrapper(gym.wrappers.TimeLimit(Grid(), 12))
    assert env.max_episode_steps == 12


NO_LIMIT = [None, 0, -1, np.inf, float("nan"), "none", "", True, False, 10**30, [1, 2], {}]


@pytest.mark.parametrize("limit", NO_LIMIT)
def test_every_word_for_no_step_limit_is_told_alike(limit):
    env = Grid()
    env._max_episode_steps = limit
    wrapped = ContinuousEnvWrapper(env)
    assert wrapped.max_episode_steps is None
    with pytest.raises(ConfigError, match=r"'Grid' has no step limit.*\+env\.kwargs\.max_episode"):
        DataCollector(wrapped).collect(1)


@pytest.mark.parametrize("limit", [7, 7.0, "7", np.int64(7), np.float32(7), np.array(7)])
def test_a_step_limit_may_be_written_in_any_way(limit):
    env = Grid()
    env._max_episode_steps = limit
    assert ContinuousEnvWrapper(env).max_episode_steps == 7


@pytest.mark.parametrize("own", NO_LIMIT)
@pytest.mark.parametrize(("given", "expected"), [({}, 9), ({"max_episode_steps": 5}, 5)])
def test_gymnasiums_limit_holds_where_the_environment_says_that_it_has_none(own, given, expected):
    limited = type("Limited", (Grid,), {"_max_episode_steps": own})
    gym.register("Limited-v0", limited, max_episode_steps=9)
    try:
        assert make_env("Limited-v0", **given).max_episode_steps == expected
        assert make_env("Limited-v0", max_episode_steps=-1).max_episode_steps is None
    finally:
        del gym.registry["Limited-v0"]


def test_an_environment_without_limit_is_refused_before_anything_is_begun(tmp_path, capfd):
    gym.register("Endless-v0", Grid)
    words = ["env.name=Endless-v0", "behaviour=random", "device=cpu", f"run_dir={tmp_path / 'run'}"]
    try:
        assert main(["collect", *words]) == 1  # on Ray, which is not started for it
        (line,) = capfd.readouterr().err.splitlines()
        assert "'Endless-v0' has no step limit" in line
        given = ["+env.kwargs.max_episode_steps=5", "data.n_episodes=2", "ray.num_workers=0"]
        assert main(["collect", *words, *given]) == 0
    finally:
        del gym.registry["Endless-v0"]


def picture(shape, dtype=np.uint8):
    class Camera(gym.Env):
        observation_space = gym.spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)
        action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.integers(256, size=shape).astype(dtype), {}

        def step(self, action):
            return self.reset()[0], 0.0, False, False, {}

    return gym.wrappers.TimeLimit(Camera(), 3)


PICTURES = [
    ((96, 96, 3), np.uint8), ((8, 8, 1), np.uint8), ((4, 84, 84), np.uint8), ((28, 28), np.uint8),
    ((96, 96, 3), np.float32), ((3, 64, 64), np.float32), ((28, 28), np.float64),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "dtype"), PICTURES)
def test_pictures_are_refused_unless_they_are_asked_for(shape, dtype):
    numbers = f"{np.prod(shape):,} numbers"
    with pytest.raises(ConfigError, match=f"pictures.*{numbers}.*hold [0-9,]+ steps.*flatten_im"):
        wrap_env(picture(shape, dtype))
    env = wrap_env(picture(shape, dtype), flatten_images=True)
    assert env.state_dim == np.prod(shape) and env.make_kwargs == {"flatten_images": True}
    dataset = DataCollector(env).collect(1)
    assert dataset.states.shape == (3, np.prod(shape))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((128,), np.uint8), ((2000,), np.float32), ((5, 5), np.float32), ((7, 11, 11), np.float32)],
)
def test_what_is_no_picture_is_flattened_as_ever(shape, dtype):
    assert wrap_env(picture(shape, dtype)).state_dim == np.prod(shape)


def test_pictures_by_their_id_and_on_the_command_line(tmp_path, capfd):
    gym.register("Camera-v0", lambda: picture((8, 8, 3)))
    words = ["env.name=Camera-v0", "behaviour=random", "device=cpu", "data.n_episodes=2"]
    words += ["ray.num_workers=0", f"run_dir={tmp_path / 'run'}"]
    try:
        with pytest.raises(ConfigError, match="'Camera-v0' has pictures"):
            make_env("Camera-v0")
        assert main(["collect", *words]) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert "+env.kwargs.flatten_images=true" in line
        assert main(["collect", *words, "+env.kwargs.flatten_images=true"]) == 0
        env = make_env("Camera-v0", flatten_images=True)
        assert env.make_kwargs == {"flatten_images": True} and env.state_dim == 192
        assert env_maker("Camera-v0", env.make_kwargs)().state_dim == 192
    finally:
        del gym.registry["Camera-v0"]


def test_the_base_class_lends_no_knowledge():
    env = make_env("BipedalWalker-v3")
    assert not env.has_controller
    assert not env.knows_crash
    assert not env.crashed(True, -100.0)
    assert env.return_bound(np.zeros((4, 24))) is None
    with pytest.raises(ConfigError, match="'BipedalWalker-v3' brings no controller"):
        env.controller(np.zeros(24))


def test_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match=r"Discrete\(2\).*Box"):
        ContinuousEnvWrapper(gym.make("CartPole-v1"))


def test_discrete_observations_are_refused():
    with pytest.raises(ConfigError, match=r"Discrete.*Box observations"):
        ContinuousEnvWrapper(gym.make("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"))


SPACES = gym.spaces
OTHER_KINDS = [
    (SPACES.Dict(place=SPACES.Box(-1, 1, (2,)), gear=SPACES.Discrete(3)), 5),
    (SPACES.Tuple((SPACES.Box(-1, 1, (2,)), SPACES.Discrete(3))), 5),
    (SPACES.Discrete(4), 4),
    (SPACES.MultiBinary(3), 3),
    (SPACES.Text(4), 4),
    (SPACES.OneOf((SPACES.Discrete(2), SPACES.Box(-1, 1, (2,)))), 3),
]
OF_NO_LENGTH = [
    SPACES.Sequence(SPACES.Discrete(3)),
    SPACES.Graph(SPACES.Box(-1, 1, (2,)), None),
    SPACES.Dict(place=SPACES.Box(-1, 1, (2,)), seen=SPACES.Sequence(SPACES.Discrete(3))),
    SPACES.Space(),
    None,
]


@pytest.mark.parametrize(("space", "size"), OTHER_KINDS)
def test_other_observations_are_refused_with_a_wrapper_that_works(space, size):
    class Sampled(Grid):
        observation_space = space

        def reset(self, *, seed=None, options=None):
            return space.sample(), {}

        def step(self, action):
            return space.sample(), 0.0, False, False, {}

    with pytest.raises(ConfigError, match="supported are Box.*gymnasium.wrappers.FlattenObs"):
        wrap_env(Sampled())
    env = wrap_env(gym.wrappers.TimeLimit(gym.wrappers.FlattenObservation(Sampled()), 3))
    assert DataCollector(env).collect(1).states.shape == (3, size)


@pytest.mark.parametrize("space", OF_NO_LENGTH)
def test_no_wrapper_is_advised_where_it_does_not_work(space):
    with pytest.raises(ConfigError, match="supported are Box.*gymnasium.Observ") as found:
        wrap_env(type("Odd", (Grid,), {"observation_space": space})())
    assert "Flatten" not in str(found.value)


def test_a_state_of_one_number_without_a_dimension_is_one_number():
    class Scalar(Grid):
        observation_space = gym.spaces.Box(-1.0, 1.0, (), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.float32(0.5), {}

        def step(self, action):
            return np.float32(0.25), 0.0, False, False, {}

    dataset = DataCollector(wrap_env(gym.wrappers.TimeLimit(Scalar(), 3))).collect(1)
    assert dataset.states.tolist() == [[0.5], [0.25], [0.25]]


def test_what_is_no_environment_is_refused():
    with pytest.raises(ConfigError, match="got int"):
        ContinuousEnvWrapper(3)
