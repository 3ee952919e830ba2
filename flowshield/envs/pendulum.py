"""Pendulum-v1, with what only this environment knows."""

__all__ = ["PendulumWrapper"]

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowshield.envs.action_spaces import ContinuousEnvWrapper
from flowshield.envs.making import make_gymnasium_env

_NEAR_COSINE, _NEAR_SPEED = 0.9, 3.0  # here the swing-up ends and the balancing begins
_ANGLE_GAIN, _SPEED_GAIN, _ENERGY_GAIN = 15.0, 3.0, 1.0


class PendulumWrapper(ContinuousEnvWrapper):
    """Pendulum-v1: swing a pole up and hold it there, for 200 steps.

    A state is (cos angle, sin angle, angular velocity), the angle 0 when upright; an action is a
    torque [1] in [-2, 2]. Nothing ends an episode but the step limit, and nothing crashes.

    Args:
        render_mode: None, "human" (a window) or "rgb_array" (frames).
        g: Gravity, m/s^2.
        **kwargs: Further arguments of `gymnasium.make`, such as max_episode_steps.

    Raises:
        ConfigError: An argument is not accepted.
    """

    has_controller: ClassVar[bool] = True

    def __init__(self, render_mode: str | None = None, g: float = 10.0, **kwargs: Any) -> None:
        given = {"g": g, **kwargs}
        if render_mode is not None:
            given["render_mode"] = render_mode
        super().__init__(make_gymnasium_env("Pendulum-v1", **given), name="pendulum")
        self.make_kwargs = given
        self._pull = 1.5 * g  # angular acceleration by gravity at a right angle, rad/s^2

    def controller(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Swings up by feeding energy, and balances by feedback of angle and speed.

        The swing-up is that of Astrom and Furuta (2000, Automatica 36, 287-295): torque along the
        motion for as long as the energy is less than that of the pole at rest at the top.

        Args:
            state: One state [3].

        Returns:
            The action [1].
        """
        cosine, sine, speed = (float(value) for value in state)
        if cosine > _NEAR_COSINE and abs(speed) < _NEAR_SPEED:
            torque = -_ANGLE_GAIN * np.arctan2(sine, cosine) - _SPEED_GAIN * speed
        else:
            lacking = self._pull * (1.0 - cosine) - 0.5 * speed**2
            torque = _ENERGY_GAIN * lacking * (1.0 if speed >= 0.0 else -1.0)
        action: NDArray[np.float32] = np.clip([torque], -2.0, 2.0).astype(np.float32)
        return action

    def return_bound(self, states: NDArray[Any]) -> NDArray[np.float64]:
        """Gives UB(s) = -(angle^2 + speed^2 / 10), the next reward without its torque.

        No reward is above 0, and the next one is at most this; a state does not show the time, so
        that there may be no other.

        Args:
            states: States [..., 3].

        Returns:
            Bounds [...] on the undiscounted return.

        Raises:
            ShapeError: The last dimension is not 3.
        """
        cosine, sine, speed = np.moveaxis(self._as_states(states).astype(np.float64), -1, 0)
        bound: NDArray[np.float64] = -(np.arctan2(sine, cosine) ** 2 + 0.1 * speed**2)
        return bound
