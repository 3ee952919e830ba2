"""Environments by name."""

import sys

import gymnasium as gym
import pytest

from flowshield.cli import main
from flowshield.data import DataCollector
from flowshield.envs import (
    ContinuousEnvWrapper,
    LunarLanderWrapper,
    env_maker,
    get_env_info,
    list_envs,
    make_env,
    register_env,
    registry,
)
from flowshield.errors import ConfigError


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_WRAPPERS", dict(registry._WRAPPERS))


class ShortPendulum(ContinuousEnvWrapper):
    def __init__(self, steps=5):
        super().__init__(gym.make("Pendulum-v1", max_episode_steps=steps), name="short")


def test_what_is_registered_can_be_made_again_by_what_it_says_of_itself(own_registry):
    def make(steps=5):
        return ContinuousEnvWrapper(gym.make("Pendulum-v1", max_episode_steps=steps))

    register_env("mine", make)
    env = make_env("mine", steps=9)
    assert (env.name, env.make_kwargs) == ("mine", {"steps": 9})
    assert registry.env_maker(env.name, env.make_kwargs)().max_episode_steps == 9


def test_info():
    assert get_env_info("lunarlander") == {"state_dim": 8, "action_dim": 2, "max_steps": 1000}
    assert get_env_info("Pendulum-v1", max_episode_steps=9)["max_steps"] == 9


@pytest.mark.parametrize("name", ["lunarlander", "LunarLander-v3", "LunarLanderContinuous-v3"])
def test_every_name_of_the_lander_brings_its_knowledge(name):
    assert isinstance(make_env(name), LunarLanderWrapper)


def test_gymnasium_ids_work_with_their_arguments():
    env = make_env("BipedalWalker-v3", hardcore=True, max_episode_steps=7)
    assert (env.unwrapped.hardcore, env.max_episode_steps) == (True, 7)
    assert env.name == "BipedalWalker-v3"


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("lunarlander", {"gravity": -5.0, "max_episode_steps": 20}),
        ("BipedalWalker-v3", {"hardcore": True, "max_episode_steps": 7}),
        ("mountain_car", {"goal_velocity": 0.1, "max_episode_steps": 7}),
    ],
)
def test_name_and_make_kwargs_build_the_same_environment_again(name, kwargs):
    env = make_env(name, **kwargs)
    again = make_env(env.name, **env.make_kwargs)
    assert again.max_episode_steps == kwargs["max_episode_steps"]
    assert again.make_kwargs == env.make_kwargs == kwargs


def test_a_registered_class_is_made_by_its_name(own_registry):
    register_env("short", ShortPendulum)
    register_env("short", ShortPendulum)
    assert list_envs() == sorted({*registry._WRAPPERS, "lunarlander", "short"})
    assert make_env("short", steps=3).max_episode_steps == 3


def test_a_taken_name_is_refused(own_registry):
    with pytest.raises(ConfigError, match="'lunarlander' is taken"):
        register_env("lunarlander", ShortPendulum)


def test_what_makes_no_wrapper_is_refused(own_registry):
    register_env("bare", lambda: gym.make("Pendulum-v1"))
    with pytest.raises(ConfigError, match="must make a ContinuousEnvWrapper"):
        make_env("bare")
    with pytest.raises(ConfigError, match="class or function"):
        register_env("number", 3)


@pytest.mark.parametrize(
    ("name", "near"),
    [("lunarlandr", "lunarlander"), ("Pendulm-v1", "Pendulum-v1"), ("LunarLander-v9", "v3")],
)
def test_unknown_names_list_the_near_ones(name, near):
    with pytest.raises(ConfigError, match=f"unknown environment '{name}'.*{near}"):
        make_env(name)


@pytest.mark.parametrize("name", ["lunarlander", "Pendulum-v1"])
def test_unknown_arguments_are_named(name):
    with pytest.raises(ConfigError, match="gravitation"):
        make_env(name, gravitation=1)


def test_an_unknown_argument_of_a_registered_class_is_named(own_registry):
    register_env("short", ShortPendulum)
    with pytest.raises(ConfigError, match="'short' does not accept.*stepz"):
        make_env("short", stepz=3)


def test_a_module_that_is_not_there():
    with pytest.raises(ConfigError, match="no_such_module"):
        make_env("no_such_module:Thing-v0")


def test_no_name_imports_a_module(tmp_path, monkeypatch):
    """Neither one in a run folder's config nor one in a dataset: both may be a stranger's."""
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    name = "stranger:Pendulum-v1"
    for make in (make_env, get_env_info, lambda name: env_maker(name, {})):
        with pytest.raises(ConfigError, match="stranger"):
            make(name)
    with pytest.raises(ConfigError, match="FLOWSHIELD_PLUGINS=stranger, and call it 'Pendulum-v1'"):
        make_env(name)

    dataset = DataCollector(make_env("Pendulum-v1", max_episode_steps=5)).collect(2, seed=0)
    dataset.metadata["env"] = name
    dataset.save(tmp_path / "data.npz")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert main(["export-minari", str(tmp_path / "data.npz"), "made-v0"]) == 0
    assert "stranger" not in sys.modules
