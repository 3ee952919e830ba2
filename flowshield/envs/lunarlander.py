"""LunarLander-v3, continuous and discrete, with what only this environment knows."""

__all__ = ["DiscreteLunarLanderWrapper", "LunarLanderWrapper"]

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.box2d.lunar_lander import heuristic
from numpy.typing import NDArray

from flowshield.envs.action_spaces import ContinuousEnvWrapper, DiscreteEnvWrapper
from flowshield.envs.making import make_gymnasium_env
from flowshield.envs.wrapper import EnvWrapper
from flowshield.errors import ConfigError

_heuristic: Callable[[Any, NDArray[Any]], Any] = heuristic

_CRASH_REWARD = -100.0
_LANDING_REWARD = 100.0
_LARGEST_SHAPING = 20.0  # at rest on the pad, upright, on both legs


class _Lander(EnvWrapper):
    """What both kinds of engines have in common: the physics' crash and the bound on the return."""

    has_controller: ClassVar[bool] = True
    knows_crash: ClassVar[bool] = True
    safe_end: ClassVar[str] = "landed"

    def _set_up(
        self, name: str, continuous: bool, render_mode: str | None, kwargs: dict[str, Any]
    ) -> None:
        if kwargs.pop("continuous", continuous) != continuous:
            other = "lunarlander_discrete" if continuous else "lunarlander"
            raise ConfigError(
                f"{name} with continuous={not continuous} has another kind of actions: use the "
                f"environment {other!r}, or leave the argument out"
            )
        env = make_gymnasium_env(
            "LunarLander-v3", continuous=continuous, render_mode=render_mode, **kwargs
        )
        super().__init__(env, name=name)
        self.make_kwargs = kwargs if render_mode is None else {"render_mode": render_mode, **kwargs}
        self._has_wind = bool(kwargs.get("enable_wind", False))

    def crashed(self, terminated: bool, last_reward: float) -> bool:
        """Says whether the lander's body touched the ground or left the picture.

        The environment then replaces the reward of the last step by exactly -100; a landing ends
        with exactly +100, and in mid-flight a -100 to the last bit does not terminate.

        Args:
            terminated: Whether the environment itself ended the episode.
            last_reward: Reward of the last step.
        """
        return bool(terminated) and last_reward == _CRASH_REWARD

    def return_bound(self, states: NDArray[Any]) -> NDArray[np.float64] | None:
        """Gives UB(s) = 120 - Phi(s), a return that no policy can exceed without wind.

        Every reward but the last is Phi(s') - Phi(s) less the fuel, so the sum telescopes to at
        most max Phi - Phi(s) = 20 - Phi(s), and landing adds 100. Here

            Phi(s) = -100 |(x, y)| - 100 |(vx, vy)| - 100 |angle| + 10 left leg + 10 right leg.

        Args:
            states: States [..., 8] in Gymnasium's scaled units.

        Returns:
            Bounds [...] on the undiscounted return, or None for a lander in the wind, for which
            the project has not measured how loose the bound is.

        Raises:
            ShapeError: The last dimension is not 8.
        """
        values = self._as_states(states).astype(np.float64)
        if self._has_wind:
            return None
        bound: NDArray[np.float64] = _LANDING_REWARD + _LARGEST_SHAPING - _shaping(values)
        return bound


class LunarLanderWrapper(_Lander, ContinuousEnvWrapper):
    """LunarLander-v3 with two continuous engines.

    A state is (x, y, vx, vy, angle, angular velocity, left leg touches, right leg touches) in
    Gymnasium's scaled units; an action is (main engine, side engines) in [-1, 1].

    Args:
        render_mode: None, "human" (a window) or "rgb_array" (frames).
        **kwargs: Further arguments of Gymnasium's LunarLander or of `gymnasium.make`: gravity,
            enable_wind, wind_power, turbulence_power, max_episode_steps.

    Raises:
        ConfigError: An argument is not accepted, or `continuous=False` was asked for.
    """

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        self._set_up("lunarlander", True, render_mode, kwargs)

    def controller(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Gives the action [2] of Gymnasium's own controller, which lands nearly always.

        Args:
            state: One state [8].
        """
        action: NDArray[np.float32] = _heuristic(self.env.unwrapped, state).astype(np.float32)
        return action


class DiscreteLunarLanderWrapper(_Lander, DiscreteEnvWrapper):
    """LunarLander-v3 with engines that are on or off: the task of the first upside-down RL.

    States and arguments are those of `LunarLanderWrapper`; an action is 0 (nothing), 1 (left
    engine), 2 (main engine) or 3 (right engine).

    Args:
        render_mode: None, "human" (a window) or "rgb_array" (frames).
        **kwargs: As for `LunarLanderWrapper`.

    Raises:
        ConfigError: An argument is not accepted, or `continuous=True` was asked for.
    """

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        self._set_up("lunarlander_discrete", False, render_mode, kwargs)

    def controller(self, state: NDArray[Any]) -> NDArray[np.int64]:
        """Gives the action [1] of Gymnasium's own controller, which lands nearly always.

        Args:
            state: One state [8].
        """
        return np.array([_heuristic(self.env.unwrapped, state)])


def _shaping(states: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, vx, vy, angle, _, left_leg, right_leg = np.moveaxis(states, -1, 0)
    penalty = np.hypot(x, y) + np.hypot(vx, vy) + np.abs(angle)
    shaping: NDArray[np.float64] = -100 * penalty + 10 * left_leg + 10 * right_leg
    return shaping
