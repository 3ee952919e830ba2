"""What reset and step may give, and one line for whatever else they give."""

from fractions import Fraction

import gymnasium as gym
import numpy as np
import pytest
import torch
from odd import ZEROS, Plain, bare, limited, odd, resetting, stepping
from pages import blocks

from flowshield.cli import main
from flowshield.data import DataCollector
from flowshield.envs import initial_state, wrap_env
from flowshield.errors import DataError

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # numpy's, on a user's screen

WITH_GRADIENT = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
WRAPPED = pytest.mark.parametrize("wrapped", [limited, bare])
API = (
    r"'Odd' is not of Gymnasium's API: {}\. Gymnasium's reset\(seed=, options=\) returns .*step_api"
)


@WRAPPED
@pytest.mark.parametrize(
    ("env_class", "came"),
    [
        (stepping(ZEROS, 0.0, False, {}), "its step returned 4 values"),
        (stepping(ZEROS, 0.0, False), "its step returned 3 values"),
        (stepping(ZEROS, 0.0, False, False, {}, 1), "its step returned more than 5 values"),
        (stepping(ZEROS, 0.0, False, {}, 1), "the fourth value of its step is a dict"),
        (odd(step=lambda self, action: None), "its step returned a NoneType"),
        (odd(step=lambda self: None), r"its step cannot be called .*takes 1 positional.*"),
        (odd(reset=lambda self: (ZEROS, {})), "its reset cannot be called .*argument 'seed'.*"),
        (odd(reset=lambda self: ZEROS), "its reset cannot be called .*argument 'seed'.*"),
        (resetting(ZEROS), r"its reset returned an array of shape \[3\]"),
        (resetting(ZEROS[:2]), r"its reset returned an array of shape \[2\]"),
        (resetting((ZEROS, {}, 1)), "its reset returned a tuple of 3 values"),
        (resetting(None), "its reset returned None"),
    ],
)
def test_another_api_is_one_line_that_says_what_came(wrapped, env_class, came):
    with pytest.raises(DataError, match=API.format(came)):
        DataCollector(wrapped(env_class)).collect(2)


def test_a_reset_without_options_is_told_by_the_wrapper_that_passes_them():
    env_class = odd(reset=lambda self, seed=None: (ZEROS, {}))
    with pytest.raises(DataError, match=API.format("its reset cannot.*argument 'options'.*")):
        DataCollector(limited(env_class)).collect(1)


def test_flattening_unpacks_a_reset_before_anybody_else():
    class Pair(Plain):
        observation_space = gym.spaces.Box(-1.0, 1.0, (2, 3), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros((2, 3), np.float32)  # which unpacks into two

    with pytest.raises(DataError, match="'Pair' is not of Gymnasium's API: its reset returned"):
        DataCollector(limited(Pair)).collect(1)


@WRAPPED
@pytest.mark.parametrize(
    ("state", "said"),
    [
        (5.0, r"a state of shape \[\] in episode 0, step 1; .*promises \[3\]"),
        (np.ones(1, np.float32), r"a state of shape \[1\] in episode 0, step 1"),
        (np.ones(4), r"a state of shape \[4\]"),
        (np.ones((3, 1)), r"a state of shape \[3, 1\]"),
        ([1.0, 2.0], r"a state of shape \[2\]"),
        ([1.0, [2.0], 3.0], "the state a list of 3 values"),
        ({"position": ZEROS}, "the state a dict"),
        (np.array([1.0, 2.0, "x"], object), r"the state an array of shape \[3\]"),
        (np.full(3, np.nan), r"the state \[nan, nan, nan\].*episode 0, step 1"),
        (np.array([0.0, 0.0, None], object), r"the state an array of .* one of which is None"),
        ([0.0, None, 0.0], "the state a list of 3 values, one of which is None in"),
        (None, "the state None in episode 0, step 1"),
        (np.full(3, 1j), r"the state an array of shape \[3\], complex128 in .*real numbers"),
        ([1.0, 2.0, 3j], "the state a list of 3 values in .*real numbers"),
        (torch.ones(3) * 1j, r"the state a Tensor of shape \[3\], torch.complex64"),
        (torch.ones(3, dtype=torch.bfloat16), r"the state a Tensor of shape \[3\], torch.bf"),
        ([10**400, 0, 0], "the state a list of 3 values"),
        (np.full(3, 1e300), r"a state with the number 1e\+300 in episode 0, step 1; float32 holds"),
        ([0.0, 0.0, -1e39], r"a state with the number -1e\+39 in episode 0, step 1"),
    ],
)
def test_a_state_that_was_not_promised_is_not_recorded(wrapped, state, said):
    with pytest.raises(DataError, match=f"'Odd' gave {said}"):
        DataCollector(wrapped(stepping(state, 0.0, False, False, {}))).collect(2)


def test_a_state_that_changes_its_shape_later_names_its_step():
    class Late(Plain):
        def reset(self, *, seed=None, options=None):
            self.time = 0
            return super().reset(seed=seed)

        def step(self, action):
            self.time += 1
            return np.zeros(3 if self.time < 3 else 1, np.float32), 0.0, False, False, {}

    with pytest.raises(DataError, match=r"shape \[1\] in episode 0, step 3"):
        DataCollector(limited(Late)).collect(1)


WRONG_STARTS = [np.zeros(2), 0.0, np.zeros((1, 3)), {"a": 1}, None, "abc", np.full(3, 1j)]


@pytest.mark.parametrize("given", [*WRONG_STARTS, torch.ones(3) * 1j, [None] * 3])
def test_a_reset_into_another_shape_is_refused(given):
    with pytest.raises(DataError, match=r"'Odd' gave .* at its reset; .*\[3\]"):
        DataCollector(limited(resetting((given, {})))).collect(1)


def test_a_start_beyond_float32_is_refused():
    said = r"'Odd' gave a state with the number 1e\+300 at its reset; float32 holds .*unit"
    with pytest.raises(DataError, match=said):
        DataCollector(limited(resetting((np.full(3, 1e300), {})))).collect(1)


@WRAPPED
@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (np.ones(1), r"an array of shape \[1\] as the reward.*step 0; .*float\(reward\[0\]\)"),
        ([1.0], r"a list of 1 values as the reward.*float\(reward\[0\]\)"),
        (np.ones(2), r"an array of shape \[2\] as the reward.*one real number$"),
        ({}, "a dict as the reward"),
        (None, "None as the reward in episode 0, step 0"),
        (np.array(None), "None as the reward"),
        ("much", "'much' as the reward"),
        (1 + 2j, r"\(1\+2j\) as the reward.*one real number$"),
        (np.complex64(1 + 2j), r"np.complex64\(1\+2j\) as the reward.*one real number$"),
        (torch.ones(1), r"a Tensor of shape \[1\], torch.float32 as the reward.*float\(reward\[0"),
        (torch.tensor(1j), r"a Tensor of shape \[\], torch.complex64 as the reward"),
        (10**400, "a whole number of 1329 bits as the reward"),
        pytest.param(10**5000, "a whole number of 16610 bits as the reward", id="10**5000"),
        (Fraction(10**400, 3), "a Fraction as the reward"),
        (1e39, "the reward 1e\\+39 in episode 0, step 0; expected finite numbers that float32"),
        (np.longdouble("1e400"), "the reward inf"),
    ],
)
def test_a_reward_that_is_not_one_number_is_refused(wrapped, reward, said):
    with pytest.raises(DataError, match=f"'Odd' gave {said}"):
        DataCollector(wrapped(stepping(ZEROS, reward, False, False, {}))).collect(1)


@pytest.mark.parametrize("place", [2, 3])
@pytest.mark.parametrize("flag", [None, "no", 2, np.array([False]), [False]])
def test_a_flag_that_is_neither_true_nor_false_is_refused(place, flag):
    given = [ZEROS, 0.0, False, False, {}]
    given[place] = flag
    with pytest.raises(
        DataError, match=f"as {['terminated', 'truncated'][place - 2]} in episode 0"
    ):
        DataCollector(limited(stepping(*given))).collect(1)


@WRAPPED
@pytest.mark.parametrize(
    "given",
    [
        ([1.0, 2.0, 3.0], 1.0, False, False, {}),
        (np.array([1, 2, 3]), 1, 0, 0, {}),
        (np.array([1.0, 2.0, 3.0]), np.float32(1), np.False_, np.False_, {}),
        (np.array([1.0, 2.0, 3.0], np.float16), np.array(1.0), np.array(False), 0.0, {}),
        (np.array([1, 2, 3], object), np.int8(1), False, False, None),
        ((1, 2, 3), True, False, np.uint8(0), {}),
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor(1.0), torch.tensor(False), False, {}),
        (WITH_GRADIENT + 1, WITH_GRADIENT[1], False, False, {}),
        (np.array([1, 2, 3], ">f8"), Fraction(1), False, False, {}),
    ],
)
def test_every_way_to_write_numbers_and_flags_is_recorded(wrapped, given):
    dataset = DataCollector(wrapped(stepping(*given))).collect(2)
    np.testing.assert_array_equal(dataset.states[1:4], [[1, 2, 3]] * 3)
    np.testing.assert_array_equal(dataset.rewards, np.ones(8))
    assert not dataset.terminated.any() and dataset.n_truncated == 2


@pytest.mark.parametrize("bad", [(np.nan, 0.0), (0.0, np.inf), (1e300, 0.0), (None, 0.0)])
def test_an_error_names_the_environment_once(bad):
    state, reward = bad
    with pytest.raises(DataError) as found:
        DataCollector(limited(stepping(np.array([state] * 3), reward, False, False, {}))).collect(1)
    assert str(found.value).count("'Odd'") == 1


def test_an_error_about_an_action_names_the_environment_once():
    with pytest.raises(DataError) as found:
        DataCollector(limited(Plain), lambda state: [np.nan]).collect(1)
    said = "the policy gave the action [nan] in environment 'Plain', episode 0, step 0; expected"
    assert str(found.value).startswith(said) and str(found.value).count("'Plain'") == 1


def test_an_error_of_the_environments_own_stays_itself():
    def broken(self, action):
        raise ValueError("the motor is hot")

    def miscounts(self, action):
        left, right = np.zeros(3)
        return left + right

    def overflows(self, action):
        return float(10**400)

    for method, kind, said in (
        (broken, ValueError, "the motor is hot"),
        (miscounts, ValueError, "too many values to unpack"),
        (overflows, OverflowError, "int too large"),
    ):
        with pytest.raises(kind, match=said) as found:
            DataCollector(limited(odd(step=method))).collect(1)
        assert type(found.value) is kind


class OneArray(Plain):
    """Writes every state into one array, and every action that it gets over."""

    def __init__(self):
        self.state = np.zeros(3, np.float32)

    def reset(self, *, seed=None, options=None):
        self.state[:] = seed % 1000
        return self.state, {}

    def step(self, action):
        self.state += 1
        action[:] = 7
        return self.state, 0.0, False, False, {}


def test_what_an_environment_overwrites_later_is_recorded_as_it_was():
    dataset = DataCollector(limited(OneArray), lambda state: [0.5]).collect(2)
    for start, states in zip(dataset.states[::4], dataset.states.reshape(2, 4, 3), strict=True):
        np.testing.assert_array_equal(states, start + np.arange(4)[:, None])
    np.testing.assert_array_equal(dataset.final_states, dataset.states[3::4] + 1)
    np.testing.assert_array_equal(dataset.actions, np.full((8, 1), 0.5))
    starts = [initial_state(limited(OneArray), seed) for seed in (3, 5)]
    env = limited(OneArray)
    np.testing.assert_array_equal([initial_state(env, seed) for seed in (3, 5)], starts)


class OldApi(Plain):
    def seed(self, seed):
        self.start = float(np.random.default_rng(seed).random())

    def reset(self):
        self.time = 0
        return np.full(3, self.start, np.float32)

    def step(self, action):
        self.time += 1
        info = {"TimeLimit.truncated": True} if self.time == 3 else {}
        return np.full(3, self.start, np.float32), 1.0, self.time == 3, info


def test_the_way_out_that_the_error_names_works():
    guide, names = "docs/guides/own_environment.md", {}
    (block,) = [text for _, text in blocks(guide) if "class CurrentApi" in text]
    exec(block, names)
    env = wrap_env(gym.wrappers.TimeLimit(names["CurrentApi"](OldApi()), 9))
    one, other = (DataCollector(env).collect(3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.states, other.states)
    assert one.episode_lengths.tolist() == [3, 3, 3] and one.n_truncated == 3


@pytest.fixture
def registered():
    gym.register("Old-v0", OldApi, max_episode_steps=5)
    yield "Old-v0"
    del gym.registry["Old-v0"]


def test_the_command_line_says_it_in_one_line(registered, tmp_path, capfd):
    words = ["behaviour=random", "ray.num_workers=0", "data.n_episodes=3", "device=cpu"]
    assert main(["collect", f"run_dir={tmp_path / 'run'}", f"env.name={registered}", *words]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("flowshield: environment 'Old-v0' is not of Gymnasium's API: its reset ")
