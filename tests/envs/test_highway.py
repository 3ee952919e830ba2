"""The road of highway-env (extra highway)."""

import numpy as np
import pytest

from flowshield.data import DataCollector
from flowshield.envs import HighwayWrapper, make_env
from flowshield.errors import ConfigError, ShapeError

pytest.importorskip("highway_env")


@pytest.fixture(scope="module")
def road():
    env = make_env("highway", duration=6, vehicles_count=6)
    yield env
    env.close()


def test_a_state_is_the_kinematics_of_five_vehicles(road):
    assert isinstance(road, HighwayWrapper)
    assert (road.state_dim, road.action_dim, road.max_episode_steps) == (25, 2, 30)
    state, _ = road.reset(seed=3)
    vehicles = state.reshape(5, 5)
    car = road.unwrapped.vehicle
    assert vehicles[0, 0] == 1  # present
    seen = vehicles[0, 2:] * [12, 80, 80]  # lanes across, and metres a second
    np.testing.assert_allclose(seen, [car.position[1], *car.velocity], atol=1e-4)
    again = make_env(road.name, **road.make_kwargs)
    np.testing.assert_array_equal(again.reset(seed=3)[0], state)
    assert again.max_episode_steps == 30


def test_the_driver_keeps_the_road_and_random_actions_leave_it(road):
    driven = DataCollector(road, road.controller).collect(3, seed=1)
    assert driven.n_truncated == 3 and driven.episode_returns.min() > 15
    random = DataCollector(road).collect(4, seed=1)
    assert random.terminated.sum() == 4
    assert road.crashed(True, 0.0) and not road.crashed(False, 0.0)
    for dataset in (driven, random):
        assert (dataset.commands[:, 1] <= road.return_bound(dataset.states)).all()
        assert dataset.rewards.min() >= 0 and dataset.rewards.max() <= 1


def test_the_driver_brakes_behind_a_slow_vehicle_in_its_lane(road):
    state = np.zeros((5, 5))
    state[0] = [1, 0.5, 4 / 12, 25 / 80, 0]
    free = road.controller(state.ravel())
    state[1] = [1, 15 / 200, 0.0, -10 / 80, 0]  # 15 m ahead, 10 m/s slower
    behind = road.controller(state.ravel())
    state[1, 2] = 4 / 12  # beside
    beside = road.controller(state.ravel())
    assert behind[0] == -1 and free[0] > 0 and beside[0] == free[0]
    assert free[1] == 0 and np.abs(behind).max() <= 1


def test_what_makes_up_a_state_is_fixed():
    with pytest.raises(ConfigError, match="'highway' fixes action, observation: leave them out"):
        make_env("highway", config={"observation": {}, "action": {}, "collision_reward": -2})
    with pytest.raises(ShapeError):
        make_env("highway").return_bound(np.zeros(24))


@pytest.mark.parametrize("driver", ["dummy", None])
def test_the_road_is_drawn_with_and_without_a_screen_and_at_its_own_pace(monkeypatch, driver):
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    if driver is not None:
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    env = make_env("highway", render_mode="rgb_array", policy_frequency=4)
    env.reset(seed=0)
    first = env.render()
    for _ in range(4):
        env.step(np.array([1.0, 0.2], np.float32))
    second = env.render()
    env.close()
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 3  # road, lines and vehicles
    assert (first != second).any()
    assert env.metadata["render_fps"] == 4
