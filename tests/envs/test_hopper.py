"""MuJoCo's hopper stands and falls (extra mujoco)."""

import os
import subprocess
import sys
from ctypes.util import find_library

import numpy as np
import pytest

from flowshield.data import DataCollector
from flowshield.envs import HopperWrapper, make_env
from flowshield.errors import ConfigError


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for env, extra in (("hopper", "mujoco"), ("highway", "highway")):
        with pytest.raises(ConfigError, match=rf'pip install "flowshield\[{extra}\]"'):
            make_env(env)
    assert "flowshield.envs.hopper" in sys.modules  # what names it needs no extra


@pytest.mark.parametrize("name", ["hopper", "Hopper-v5"])
def test_the_controller_stands_where_random_torques_fall(name):
    pytest.importorskip("mujoco")
    env = make_env(name, max_episode_steps=300)
    assert isinstance(env, HopperWrapper)
    assert (env.name, env.state_dim, env.action_dim) == ("hopper", 11, 3)
    assert make_env(env.name, **env.make_kwargs).max_episode_steps == 300
    standing = DataCollector(env, env.controller).collect(2)
    assert standing.episode_lengths.tolist() == [300, 300] and standing.n_truncated == 2
    falling = DataCollector(env).collect(4)
    assert falling.terminated.sum() == 4 and falling.episode_lengths.max() < 200
    assert env.crashed(True, 1.0) and not env.crashed(False, 1.0)
    assert env.return_bound(np.zeros((3, 11))) is None


WITHOUT_A_SCREEN = """
from flowshield.cli.film import _draw_without_a_screen
_draw_without_a_screen()
from flowshield.envs import make_env
env = make_env("hopper", render_mode="rgb_array")
env.reset(seed=0)
print(env.render().std() > 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo needs no screen to draw")
@pytest.mark.skipif(find_library("EGL") is None, reason="needs the system's EGL library")
def test_a_film_is_drawn_without_a_screen():
    pytest.importorskip("mujoco")
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")
    env = {name: value for name, value in os.environ.items() if name not in screens}
    command = [sys.executable, "-c", WITHOUT_A_SCREEN]  # MuJoCo looks once in a process
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
