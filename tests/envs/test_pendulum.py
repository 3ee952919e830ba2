"""Pendulum: its controller, and a bound that is met."""

import numpy as np
import pytest

from flowshield.data import DataCollector
from flowshield.envs import PendulumWrapper, make_env
from flowshield.errors import ShapeError

MIXED = {
    "components": [
        {"kind": "controller", "weight": 1.0},
        {"kind": "epsilon_random", "weight": 1.0, "levels": [0.5]},
        {"kind": "random", "weight": 1.0},
    ]
}


@pytest.mark.parametrize("name", ["pendulum", "Pendulum-v1"])
def test_both_names_bring_its_knowledge(name):
    env = make_env(name, g=9.0, max_episode_steps=7)
    assert isinstance(env, PendulumWrapper) and env.name == "pendulum"
    again = make_env(env.name, **env.make_kwargs)
    assert (again.unwrapped.g, again.max_episode_steps) == (9.0, 7)
    assert env.has_controller and not env.knows_crash


def test_the_controller_swings_up_and_holds():
    env = make_env("pendulum")
    dataset = DataCollector(env, env.controller).collect(20, seed=0)
    assert dataset.episode_returns.mean() > -200 and dataset.episode_returns.min() > -500
    assert (dataset.final_states[:, 0] > 0.99).all()  # upright


def test_no_return_passes_the_bound():
    env = make_env("pendulum")
    dataset = DataCollector(env, behaviour=MIXED).collect(12, seed=1)
    room = env.return_bound(dataset.states) - dataset.commands[:, 1]
    # rewards are computed from the state before it is rounded to float32
    assert room.min() > -1e-3
    last = np.append(dataset.episode_starts[1:] - 1, len(dataset) - 1)
    torque = 0.001 * dataset.actions[last, 0] ** 2  # at the last step nothing else is in between
    np.testing.assert_allclose(room[last], torque, atol=1e-4)
    with pytest.raises(ShapeError):
        env.return_bound(np.zeros((2, 4)))
