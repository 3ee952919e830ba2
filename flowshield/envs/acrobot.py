"""Acrobot-v1, with what only this environment knows."""

__all__ = ["AcrobotWrapper"]

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowshield.envs.action_spaces import DiscreteEnvWrapper
from flowshield.envs.making import make_gymnasium_env

# Of (cos, sin) of both angles and the two speeds; the second link's motion alone returns -93.
_FEEDBACK = np.array([0.0, 0.8, 0.0, 0.8, -0.4, 1.0])
_BACKWARD, _FORWARD = 0, 2  # torques of -1 and 1; action 1 applies none


class AcrobotWrapper(DiscreteEnvWrapper):
    """Acrobot-v1: two hanging links, swung up by a torque at the joint between them.

    A state is (cos, sin) of the first link's angle, (cos, sin) of the second's relative to the
    first, and the two angular velocities [6]; an action is a torque of -1 (0), 0 (1) or 1 (2). Each
    step costs 1 but the one in which the tip rises a link's length above the pivot, which ends the
    episode: after H steps the return is 1 - H. The step limit cuts an episode off at -500.

    Nothing crashes. A failure here is an end that the environment makes, and the only such end is
    the goal. An episode that the limit cuts off is counted as such, and obeys a command that asked
    for no more.

    Args:
        render_mode: None, "human" (a window) or "rgb_array" (frames).
        **kwargs: Further arguments of `gymnasium.make`, such as max_episode_steps.

    Raises:
        ConfigError: An argument is not accepted.
    """

    has_controller: ClassVar[bool] = True
    safe_end: ClassVar[str] = "swung up"

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        given = kwargs if render_mode is None else {"render_mode": render_mode, **kwargs}
        super().__init__(make_gymnasium_env("Acrobot-v1", **given), name="acrobot")
        self.make_kwargs = given

    def controller(self, state: NDArray[Any]) -> NDArray[np.int64]:
        """Feeds energy: full torque along the second link's motion, led by both angles.

        Over 200 starts it returns -80 on average, -64 at best and -323 at worst.

        Args:
            state: One state [6].

        Returns:
            The action [1].
        """
        return np.array([_FORWARD if state @ _FEEDBACK >= 0.0 else _BACKWARD])

    def return_bound(self, states: NDArray[Any]) -> NDArray[np.float64]:
        """Gives 0, since no reward is above it; the step that reaches the goal has it.

        Args:
            states: States [..., 6].

        Returns:
            Bounds [...] on the undiscounted return.

        Raises:
            ShapeError: The last dimension is not 6.
        """
        return np.zeros(self._as_states(states).shape[:-1])
