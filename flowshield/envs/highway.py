"""highway-env's road with continuous steering, and what only it knows. Needs the extra highway."""

__all__ = ["HighwayWrapper"]

import importlib
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowshield.envs.action_spaces import ContinuousEnvWrapper
from flowshield.envs.making import demand_package, make_gymnasium_env
from flowshield.errors import ConfigError

_N_SEEN = 5  # vehicles in a state, the own one first
_FEATURES = ("presence", "x", "y", "vx", "vy")
_LANES, _LANE_WIDTH, _VEHICLE_LENGTH = 3, 4.0, 5.0  # lanes, metres, metres
# What a 1 means in a state, in metres and metres a second.
_UNITS = np.array([1.0, 200.0, _LANES * _LANE_WIDTH, 80.0, 80.0])
_STEERING_RANGE, _ACCELERATION_RANGE = np.pi / 4, 5.0  # rad and m/s^2 at an action of 1
# Intelligent driver model: speed, time headway, least gap, acceleration, braking; SI units.
_SPEED, _HEADWAY, _LEAST_GAP, _ACCELERATION, _BRAKING = 28.0, 1.2, 6.0, 3.0, 5.0


class HighwayWrapper(ContinuousEnvWrapper):
    """Three lanes of highway-env, driven by throttle and steering.

    A state is the kinematics of 5 vehicles, the own one first and the nearest ones relative to it,
    with 5 features each (presence, x, y, vx, vy, each over its range), flattened to [25]. An action
    is (acceleration, steering) in [-1, 1]. A step is paid with 0 to 1, most for driving fast. A
    collision, or leaving the road, ends the episode.

    highway-env acts once a second by default, too seldom to steer by hand; here the policy acts
    `policy_frequency` times a second.

    Args:
        render_mode: None, "human" (a window) or "rgb_array" (frames).
        duration: Length of an episode, seconds.
        policy_frequency: Actions a second.
        vehicles_count: Other vehicles on the road.
        config: Further keys of highway-env's config. What makes up the state, the action and the
            lanes is fixed.

    Raises:
        ConfigError: highway-env is not installed, or an argument is not accepted.
    """

    has_controller: ClassVar[bool] = True
    knows_crash: ClassVar[bool] = True

    def __init__(
        self,
        render_mode: str | None = None,
        duration: int = 10,
        policy_frequency: int = 5,
        vehicles_count: int = 10,
        config: dict[str, Any] | None = None,
    ) -> None:
        demand_package("highway_env", extra="highway", env="highway")
        importlib.import_module("highway_env")  # puts its ids into Gymnasium's registry
        fixed = {
            "observation": {
                "type": "Kinematics",
                "vehicles_count": _N_SEEN,
                "features": list(_FEATURES),
                "normalize": True,
            },
            "action": {"type": "ContinuousAction"},
            "lanes_count": _LANES,
        }
        taken = sorted(fixed.keys() & dict(config or {}).keys())
        if taken:
            raise ConfigError(f"environment 'highway' fixes {', '.join(taken)}: leave them out")
        chosen = {
            "duration": duration,
            "policy_frequency": policy_frequency,
            "simulation_frequency": policy_frequency,
            "vehicles_count": vehicles_count,
            "offroad_terminal": True,
            "offscreen_rendering": render_mode != "human",
            **dict(config or {}),
        }
        steps = round(duration * policy_frequency)
        env = make_gymnasium_env(
            "highway-fast-v0",
            render_mode=render_mode,
            max_episode_steps=steps,
            config={**chosen, **fixed},
        )
        super().__init__(env, name="highway")
        self.make_kwargs = {
            "duration": duration,
            "policy_frequency": policy_frequency,
            "vehicles_count": vehicles_count,
            "config": dict(config or {}),
        }
        if render_mode is not None:
            self.make_kwargs["render_mode"] = render_mode
        self.metadata = {**env.metadata, "render_fps": policy_frequency}  # theirs: twice as fast

    def render(self) -> Any:
        """Draws the road, frames also where SDL has no screen.

        Returns:
            [height, width, 3], uint8, with render_mode "rgb_array"; else None.
        """
        env: Any = self.unwrapped
        if self.render_mode == "rgb_array" and env.viewer is None:
            graphics = importlib.import_module("highway_env.envs.common.graphics")
            env.viewer = graphics.EnvViewer(env)
            env.viewer.enabled = True  # under SDL_VIDEODRIVER=dummy it would draw black
        return super().render()

    def controller(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Keeps its lane and its distance, by the intelligent driver model.

        Treiber, Hennecke and Helbing (2000, arXiv cond-mat/0002177, eqs. 3 and 4). It never
        overtakes, and sees no more than a state shows.

        Args:
            state: One state [25].

        Returns:
            The action [2].
        """
        vehicles = np.asarray(state, np.float64).reshape(_N_SEEN, len(_FEATURES)) * _UNITS
        _, _, y, vx, vy = vehicles[0]
        lane = np.clip(np.round(y / _LANE_WIDTH), 0, _LANES - 1) * _LANE_WIDTH
        wished = np.clip(0.06 * (lane - y), -0.1, 0.1)
        steering = 0.4 * (wished - np.arctan2(vy, max(vx, 1.0)))
        action = [_follow(vehicles) / _ACCELERATION_RANGE, steering / _STEERING_RANGE]
        clipped: NDArray[np.float32] = np.clip(action, -1.0, 1.0).astype(np.float32)
        return clipped

    def crashed(self, terminated: bool, last_reward: float) -> bool:
        """Says whether the car collided or left the road: what else ends it is the duration."""
        return bool(terminated)

    def return_bound(self, states: NDArray[Any]) -> NDArray[np.float64]:
        """Gives the number of steps of an episode, since a reward is at most 1.

        Args:
            states: States [..., 25].

        Returns:
            Bounds [...] on the undiscounted return.

        Raises:
            ShapeError: The last dimension is not 25.
        """
        shape = self._as_states(states).shape[:-1]
        return np.full(shape, float(self.max_episode_steps or 0))


def _follow(vehicles: NDArray[np.float64]) -> float:
    """Acceleration, m/s^2, of the own vehicle behind the nearest one ahead in its lane."""
    speed, others = max(float(vehicles[0, 3]), 0.0), vehicles[1:]
    ahead = (others[:, 0] > 0.5) & (others[:, 1] > 0) & (np.abs(others[:, 2]) < _LANE_WIDTH / 2)
    interaction = 0.0
    if ahead.any():
        nearest = others[ahead][np.argmin(others[ahead, 1])]
        gap = max(float(nearest[1]) - _VEHICLE_LENGTH, 0.1)
        approach = -float(nearest[3])
        braking = speed * approach / (2.0 * np.sqrt(_ACCELERATION * _BRAKING))
        interaction = (_LEAST_GAP + max(0.0, speed * _HEADWAY + braking)) / gap
    return float(_ACCELERATION * (1.0 - (speed / _SPEED) ** 4 - interaction**2))
