"""Lends a shield what its environment can prove: the highest return from a state."""

__all__ = ["lend_return_bound"]

import torch
from torch import Tensor

from flowshield.envs import EnvWrapper, initial_state
from flowshield.errors import ConfigError
from flowshield.models import BaseShield


def lend_return_bound(shield: BaseShield, env: EnvWrapper) -> None:
    """Makes every command above the environment's bound unsupported, whatever the data say.

    From Python this call is the only way: `calibration.use_return_bound` is read by the command
    line's evaluation alone, which makes it for every shield that it loads. The bound is not saved
    with the shield: lend it again after `load`.

    Args:
        shield: Calibrated or not: commands that were fulfilled lie below the bound, so that the
            threshold and its promise stay as they are.
        env: Knows a bound (`return_bound`).

    Raises:
        ConfigError: The environment knows none.
    """
    if env.return_bound(initial_state(env, 0)) is None:
        raise ConfigError(
            f"environment {env.name!r} knows no bound on its returns: use "
            "calibration.use_return_bound=false"
        )

    def bound(states: Tensor) -> Tensor:
        return torch.as_tensor(env.return_bound(states.cpu().numpy()), device=states.device)

    shield.return_bound = bound
