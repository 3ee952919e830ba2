"""A UDRL agent obeying a command, with or without a shield, over a batch of episodes."""

__all__ = ["CommandedPolicy"]

from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from flowshield.errors import DataError, ShapeError
from flowshield.models.shields.projection import Projection


class Actor(Protocol):
    """What a commanded policy needs of an agent."""

    action_low: Tensor

    def sample(
        self,
        state: Tensor,
        command: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Actions [batch, action_dim] at states [batch, state_dim] under commands [batch, 2]."""


class Projector(Protocol):
    """What it needs of a shield."""

    def project_in_detail(self, state: Tensor, command: Tensor) -> Projection:
        """The nearest supported commands [batch, 2], and which of them were replaced."""


class CommandedPolicy:
    """Acts on commands that shrink as the episode goes on.

    At every step the shield, where there is one, replaces a command that is not supported by the
    nearest that is, and the agent goes on from the replacement. After the step the horizon falls
    by one, never below one, and the return by the reward.

    It is a batch policy of `flowshield.data.rollout`: one row an episode.

    Args:
        agent: The policy.
        command: The request, (horizon, return), the same for every episode; or one an episode,
            [n, 2].
        shield: A calibrated shield, or None.
        deterministic: Whether the agent takes its mean, or likeliest, action.
        generator: What it draws from otherwise, on its device; None = torch's own.

    Raises:
        DataError: A command is none: its horizon is below 1, or it is not finite.
        ShapeError: The commands are neither [2] nor [n, 2].
    """

    def __init__(
        self,
        agent: Actor,
        command: ArrayLike,
        shield: Projector | None = None,
        *,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        request = np.asarray(command, dtype=np.float64)
        if request.ndim not in (1, 2) or request.shape[-1] != 2:
            raise ShapeError(
                f"expected a command of shape [2], or one an episode [n, 2], got "
                f"{list(request.shape)}"
            )
        bad = ~(np.isfinite(request).all(axis=-1) & (request[..., 0] >= 1))
        if bad.any():
            raise DataError(
                "expected a command (horizon of at least 1 step, finite return), got "
                f"{tuple(request[bad].reshape(-1, 2)[0].tolist())}"
            )
        self.agent, self.shield, self.deterministic = agent, shield, deterministic
        self.generator = generator
        self.request = request
        self.device = agent.action_low.device
        self.commands = torch.empty(0, 2)
        self.steps = np.zeros(0, dtype=np.int64)
        self.flagged = np.zeros(0, dtype=np.int64)
        self.flagged_at_start = np.zeros(0, dtype=bool)
        self.first_commands = np.zeros((0, 2))

    def begin(self, states: np.ndarray) -> None:
        """Starts one episode a row of the initial states [n, state_dim].

        Raises:
            ShapeError: There are commands for another number of episodes.
        """
        n = len(states)
        if self.request.ndim == 2 and len(self.request) != n:
            raise ShapeError(
                f"expected a command for each of {n} episodes, got {len(self.request)}"
            )
        requests = np.broadcast_to(self.request, (n, 2))
        self.commands = torch.tensor(requests, dtype=torch.float32, device=self.device)
        self.steps = np.zeros(n, dtype=np.int64)
        self.flagged = np.zeros(n, dtype=np.int64)
        self.flagged_at_start = np.zeros(n, dtype=bool)
        self.first_commands = requests.copy()

    @torch.no_grad()
    def act(self, states: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Actions [k, action_dim] of the episodes `rows` [k] at states [k, state_dim].

        Raises:
            DataError: The shield can compute nothing at a state: there is no action left.
        """
        state = torch.as_tensor(states, dtype=torch.float32, device=self.device)
        index = torch.as_tensor(rows, device=self.device)
        command = self.commands[index]
        if self.shield is not None:
            command = self._shielded(self.shield, state, command, rows)
            self.commands[index] = command
        self.steps[rows] += 1
        own = {} if self.generator is None else {"generator": self.generator}
        action = self.agent.sample(state, command, deterministic=self.deterministic, **own)
        return action.cpu().numpy()

    def observe(self, rewards: np.ndarray, rows: np.ndarray) -> None:
        """Takes the rewards [k] of the last step of the episodes `rows` [k] off their commands."""
        change = np.ones((len(rows), 2), dtype=np.float32)
        change[:, 1] = rewards
        index = torch.as_tensor(rows, device=self.device)
        self.commands.index_add_(0, index, torch.as_tensor(change, device=self.device), alpha=-1)
        self.commands[:, 0].clamp_(min=1.0)

    def _shielded(
        self, shield: Projector, state: Tensor, command: Tensor, rows: np.ndarray
    ) -> Tensor:
        projection = shield.project_in_detail(state, command)
        computed = projection.command.isfinite().all(dim=1)
        if not bool(computed.all()):
            first = int(computed.int().argmin())
            raise DataError(
                f"the shield can compute no command at all in row {int(rows[first])}, step "
                f"{int(self.steps[rows[first]])}, state {state[first].tolist()} "
                f"({int((~computed).sum())} of {len(rows)} rows): its weights are no numbers, or "
                "the state is far from its data; train it again, or act without it"
            )
        changed = projection.changed.cpu().numpy()
        first = self.steps[rows] == 0
        self.flagged[rows] += changed
        self.flagged_at_start[rows[first]] = changed[first]
        self.first_commands[rows[first]] = projection.command.cpu().numpy()[first]
        return projection.command
