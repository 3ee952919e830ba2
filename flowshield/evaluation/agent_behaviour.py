"""A trained agent as the behaviour from which data come."""

__all__ = ["AgentBehaviour"]

import copy
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from flowshield.data import GroupPolicy
from flowshield.envs import EnvWrapper
from flowshield.errors import ConfigError, DataError, ShapeError
from flowshield.models import BaseShield, CommandedPolicy, UDRLAgent
from flowshield.models.fixed_blocks import FixedBlockAgent, FixedBlocks, FixedBlockShield


class AgentBehaviour:
    """Lets an agent follow commands in the episodes of a `DataCollector`.

    Every episode draws one of the commands, evenly, from its own generator, and its action noise
    after that; the dataset keeps the command as the episode's request. The agent acts in all
    episodes that run in lockstep by one call of its network.

    The same seed gives the same bytes with any number of rollout actors, on processors of one kind
    and with one release of torch: `FixedBlocks` sees to it. Only with a shield whose solver is
    dopri5 that is not promised: see `FixedBlockShield`, which also says what a shield costs here.

    Args:
        agent: The policy; it takes its mean, or likeliest, action. A copy of it acts, on the CPU.
        commands: Requests (horizon in steps, return in raw reward), [m, 2].
        shield: A calibrated shield that checks every step, or None. It too is copied.
        noise: Standard deviation of Gaussian noise on the actions, in their units; the levels of
            the episodes in the dataset. To discrete actions none can be added.

    Raises:
        ConfigError: The noise is negative or not finite, or the agent's actions are discrete.
        DataError: There are no commands, a horizon is below 1, or a number is not finite.
        NotCalibratedError: The shield has no threshold.
        ShapeError: The commands are not [m, 2].
    """

    def __init__(
        self,
        agent: UDRLAgent,
        commands: ArrayLike,
        shield: BaseShield | None = None,
        noise: float = 0.0,
    ) -> None:
        self.commands = np.array(commands, dtype=np.float64)
        if self.commands.ndim != 2 or self.commands.shape[1] != 2:
            raise ShapeError(f"expected commands [m, 2], got shape {list(self.commands.shape)}")
        if len(self.commands) == 0:
            raise DataError("expected at least one command (horizon, return), got none")
        if not (math.isfinite(noise) and noise >= 0):
            raise ConfigError(f"expected noise >= 0, in units of the action, got {noise!r}")
        if noise > 0 and agent.n_actions is not None:
            raise ConfigError(f"expected noise=0 for discrete actions, got {noise!r}")
        if shield is not None:
            shield.calibration_in_force()
        self.noise = float(noise)
        self.agent = copy.deepcopy(agent).cpu().eval()
        self.shield = None if shield is None else copy.deepcopy(shield).cpu().eval()
        self._commanded(self.commands, FixedBlocks())  # refuses what is no command

    def draw_group(
        self,
        envs: Sequence[EnvWrapper],
        generators: Sequence[np.random.Generator],
        indices: Sequence[int],
    ) -> GroupPolicy:
        """Draws a command for each episode; see `flowshield.data.GroupBehaviour`."""
        drawn = [int(rng.integers(len(self.commands))) for rng in generators]
        blocks = FixedBlocks()
        commanded = self._commanded(self.commands[drawn], blocks)
        policy = _SeatedPolicy(commanded, blocks, np.array(indices), self.noise, generators)
        n = len(indices)
        requests = [(horizon, target) for horizon, target in self.commands[drawn].tolist()]
        return GroupPolicy(policy, ["agent"] * n, [self.noise] * n, requests)

    def describe(self) -> dict[str, Any]:
        """Gives the commands, the noise, and a digest each by which agent and shield are known."""
        return {
            "agent": _digest(self.agent),
            "commands": self.commands.tolist(),
            "shield": None
            if self.shield is None
            else {"type": self.shield.shield_type, "weights": _digest(self.shield)},
            "noise": self.noise,
        }

    def _commanded(self, commands: NDArray[np.float64], blocks: FixedBlocks) -> CommandedPolicy:
        shield = None if self.shield is None else FixedBlockShield(self.shield, blocks)
        return CommandedPolicy(FixedBlockAgent(self.agent, blocks), commands, shield)


class _SeatedPolicy:
    """A commanded policy whose every row has its seat by its index and noise of its own."""

    def __init__(
        self,
        policy: CommandedPolicy,
        blocks: FixedBlocks,
        indices: NDArray[np.intp],
        noise: float,
        generators: Sequence[np.random.Generator],
    ) -> None:
        self._policy, self._blocks, self._indices = policy, blocks, indices
        self._noise, self._generators = noise, generators
        self.begin, self.observe = policy.begin, policy.observe

    def act(self, states: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[Any]:
        self._blocks.seat(self._indices[rows])
        actions = self._policy.act(states, rows)
        if self._noise == 0.0:
            return actions
        size = actions.shape[1]
        drawn = [self._generators[row].standard_normal(size) for row in rows.tolist()]
        return actions + self._noise * np.array(drawn)


def _digest(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers, in their order."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
