"""CartPole-v1, the discrete home of upside-down RL, with what only this environment knows."""

__all__ = ["CartPoleWrapper"]

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowshield.envs.action_spaces import DiscreteEnvWrapper
from flowshield.envs.making import make_gymnasium_env

# The pole is pushed to where it will be half a second on; the cart is drawn gently to the middle.
_FEEDBACK = np.array([0.05, 0.1, 1.0, 0.5])


class CartPoleWrapper(DiscreteEnvWrapper):
    """CartPole-v1: push left (0) or right (1), a reward of 1 a step until the pole falls.

    A state is (position, velocity, angle, angular velocity). The return of what remains is its
    number of steps, so that every command that was ever fulfilled has R = H: a good test of what a
    shield makes of a distribution on a line.

    Args:
        render_mode: None, "human" (a window) or "rgb_array" (frames).
        max_episode_steps: Step limit.
        **kwargs: Further arguments of `gymnasium.make`.

    Raises:
        ConfigError: An argument is not accepted.
    """

    has_controller: ClassVar[bool] = True
    knows_crash: ClassVar[bool] = True

    def __init__(
        self, render_mode: str | None = None, max_episode_steps: int = 500, **kwargs: Any
    ) -> None:
        given = {"max_episode_steps": max_episode_steps, **kwargs}
        if render_mode is not None:
            given["render_mode"] = render_mode
        super().__init__(make_gymnasium_env("CartPole-v1", **given), name="cartpole")
        self.make_kwargs = given
        self._largest_reward = 0.0 if kwargs.get("sutton_barto_reward") else 1.0

    def controller(self, state: NDArray[Any]) -> NDArray[np.int64]:
        """Pushes towards where the pole leans and turns; it never falls from Gymnasium's starts.

        Args:
            state: One state [4].

        Returns:
            The action [1].
        """
        return np.array([int(state @ _FEEDBACK > 0)])

    def crashed(self, terminated: bool, last_reward: float) -> bool:
        """Says whether the pole fell or the cart left the track: what else ends it is the limit."""
        return bool(terminated)

    def return_bound(self, states: NDArray[Any]) -> NDArray[np.float64]:
        """Gives the step limit, since a reward is at most 1: the state does not show the time.

        Args:
            states: States [..., 4].

        Returns:
            Bounds [...] on the undiscounted return.

        Raises:
            ShapeError: The last dimension is not 4.
        """
        assert self.max_episode_steps is not None  # CartPole-v1 has a limit of its own
        bound = self._largest_reward * self.max_episode_steps
        return np.full(self._as_states(states).shape[:-1], bound)
