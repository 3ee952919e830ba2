"""A collection that memory or disk cannot hold is refused before it starts."""

import gymnasium as gym
import numpy as np
import pytest

from flowshield.cli import main
from flowshield.config import compose
from flowshield.data import DataCollector, collection_size
from flowshield.envs import list_envs, make_env, wrap_env
from flowshield.errors import ConfigError
from flowshield.groups import config_groups
from flowshield.room import MEMORY_COPIES


class Ending(gym.Env):
    """States of 98 numbers: 410 bytes a step; ends after `length` steps."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (98,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, length):
        self.length, self.resets = length, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.resets = 0, self.resets + 1
        return np.zeros(98, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(98, np.float32), 0.0, self.time >= self.length, False, {}


def ending(length, limit):
    return wrap_env(gym.wrappers.TimeLimit(Ending(length), limit), name="ending")


@pytest.fixture
def room(monkeypatch):
    """Sets what this machine has left for a dataset, in memory and on disk."""

    def leave(memory=10**15, disk=10**15):
        monkeypatch.setattr(collection_size, "free_memory", lambda: MEMORY_COPIES * memory)
        monkeypatch.setattr(collection_size, "free_disk", lambda place: disk)

    return leave


def test_bytes_of_a_step_are_those_of_the_dataset(room):
    for env in (ending(7, 7), make_env("cartpole", max_episode_steps=5)):
        dataset = DataCollector(env).collect(3)
        arrays = (dataset.states, dataset.actions, dataset.rewards)
        size = sum(array.nbytes for array in (*arrays, dataset.terminated, dataset.truncated))
        assert size == len(dataset) * collection_size._step_bytes(env)


def test_what_fits_by_its_step_limit_is_not_played_to_be_counted(room):
    env = ending(10, 100)
    room(memory=3 * 100 * 410)
    assert DataCollector(env).check_room(3) is None and env.unwrapped.resets == 0


@pytest.mark.parametrize(("memory", "disk"), [(3 * 100 * 410 - 1, 10**15), (10**15, 122_999)])
def test_what_does_not_fit_is_refused_with_what_would(room, memory, disk, tmp_path):
    room(memory, disk)
    env = ending(1000, 100)
    words = (
        r"3 episodes of environment 'ending' need about 123 kB: 410 bytes a step, up to 100 steps "
        r"an episode \(none of the first 3 ends within 100\).*choose n_episodes=2, or "
        "max_episode_steps=99, or smaller"
    )
    with pytest.raises(
        ConfigError, match=words.replace("none of the first 3 ends within 100", ".*")
    ):
        DataCollector(env).check_room(3, place=tmp_path)
    DataCollector(env).check_room(2, place=tmp_path)
    DataCollector(ending(1000, 99)).check_room(3, place=tmp_path)


def test_a_step_limit_that_is_far_too_high_refuses_nothing(room):
    env = ending(10, 10**6)
    room(memory=50 * 20 * 410)  # 20 steps of each of 50 episodes
    said = DataCollector(env).check_room(50)
    assert said == (
        "50 episodes of environment 'ending' could take 20 GB by the step limit of 1000000; the "
        "first 4 last about 10 steps: about 205 kB are expected"
    )
    assert env.max_episode_steps == 10**6 and env.unwrapped.resets == 4


@pytest.mark.parametrize("length", [21, 40, 10**9])
def test_first_episodes_that_are_too_long_refuse_it(room, length):
    env = ending(length, 10**6)
    room(memory=50 * 20 * 410)
    with pytest.raises(ConfigError, match="50 episodes.*max_episode_steps=20, or smaller obs"):
        DataCollector(env).check_room(50)
    assert env.max_episode_steps == 10**6


def test_not_even_a_step_of_each_fits(room):
    room(memory=300)
    with pytest.raises(ConfigError, match="choose smaller observations$"):
        DataCollector(ending(5, 10)).check_room(1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_collecting_from_python_asks_first(room, num_workers):
    room(memory=1000)
    with pytest.raises(ConfigError, match="need about"):
        DataCollector(make_env("Pendulum-v1")).collect(50, num_workers=num_workers)


@pytest.mark.parametrize("command", ["collect", "train", "run", "tune"])
def test_every_command_refuses_in_one_line_before_ray_is_started(room, command, tmp_path, capfd):
    room(disk=10**6)
    words = ["env=pendulum", "data.n_episodes=500", "device=cpu", f"run_dir={tmp_path / 'run'}"]
    assert main([command, *words]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("flowshield: 500 episodes of environment 'pendulum' need about 2.6 MB")
    assert "1.0 MB of disk left" in line and "choose n_episodes=192" in line


def test_what_the_step_limit_leaves_open_is_told(room, tmp_path, capsys):
    gym.register("Ending-v0", lambda: Ending(10), max_episode_steps=10**6)
    room(memory=20 * 20 * 410)
    words = ["env.name=Ending-v0", "behaviour=random", "data.n_episodes=20", "ray.num_workers=0"]
    try:
        assert main(["collect", f"run_dir={tmp_path / 'run'}", "device=cpu", *words]) == 0
    finally:
        del gym.registry["Ending-v0"]
    assert "20 episodes of environment 'Ending-v0' could take 8.2 GB" in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["default", "quick", "full"])
@pytest.mark.parametrize("name", [name for name in config_groups()["env"] if name in list_envs()])
def test_no_packaged_run_is_near_its_limits(name, profile, monkeypatch):
    if name in ("hopper", "highway"):
        pytest.importorskip({"hopper": "mujoco", "highway": "highway_env"}[name])
    monkeypatch.setattr(collection_size, "free_memory", lambda: 4 * 10**9)
    config = compose("run", [f"env={name}", f"profile={profile}"])
    env = make_env(config.env.name, **config.env.kwargs)
    assert DataCollector(env).check_room(config.data.n_episodes) is None
