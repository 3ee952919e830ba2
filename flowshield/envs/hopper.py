"""MuJoCo's Hopper-v5, with what only this environment knows. Needs the extra mujoco."""

__all__ = ["HopperWrapper"]

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowshield.envs.action_spaces import ContinuousEnvWrapper
from flowshield.envs.making import demand_package, make_gymnasium_env

_JOINT_GAIN, _JOINT_DAMPING = 1.0, 0.05
_LEAN_GAIN, _LEAN_DAMPING = 3.0, 0.6


class HopperWrapper(ContinuousEnvWrapper):
    """Hopper-v5: a leg with three joints, paid for moving forward and for staying upright.

    A state is MuJoCo's (height, four angles, and the six velocities) [11]; an action is the torques
    of thigh, leg and foot [3] in [-1, 1]. A fall ends the episode. No return is provably out of
    reach, as nothing bounds the speed.

    Args:
        render_mode: None, "human" (a window) or "rgb_array" (frames).
        **kwargs: Further arguments of Gymnasium's Hopper or of `gymnasium.make`:
            forward_reward_weight, ctrl_cost_weight, healthy_reward, max_episode_steps, ...

    Raises:
        ConfigError: MuJoCo is not installed, or an argument is not accepted.
    """

    has_controller: ClassVar[bool] = True
    knows_crash: ClassVar[bool] = True

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        demand_package("mujoco", extra="mujoco", env="hopper")
        given = kwargs if render_mode is None else {"render_mode": render_mode, **kwargs}
        super().__init__(make_gymnasium_env("Hopper-v5", **given), name="hopper")
        self.make_kwargs = given

    def controller(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Stands: holds the joints straight and pushes the foot against a lean. It does not hop.

        Args:
            state: One state [11].

        Returns:
            The action [3].
        """
        lean, joints = float(state[1]), state[2:5]
        torques = -_JOINT_GAIN * joints - _JOINT_DAMPING * state[8:11]
        torques[2] -= _LEAN_GAIN * lean + _LEAN_DAMPING * float(state[7])
        action: NDArray[np.float32] = np.clip(torques, -1.0, 1.0).astype(np.float32)
        return action

    def crashed(self, terminated: bool, last_reward: float) -> bool:
        """Says whether the hopper fell: what else ends an episode is the step limit."""
        return bool(terminated)
