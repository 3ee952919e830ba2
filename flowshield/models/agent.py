"""The command-conditioned policy of upside-down reinforcement learning."""

__all__ = ["UDRLAgent"]

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowshield.models.checks import check_batch
from flowshield.models.networks import ResidualMLP, Standardizer
from flowshield.models.serialization import load_payload, rebuilding, save_payload

_MIN_LOG_STD, _MAX_LOG_STD = -2.5, 1.0


class UDRLAgent(nn.Module):
    """pi(a | s, g): a Gaussian over actions given state and command (H, R).

    Trained by maximum likelihood on what the data did and on what came of it (Schmidhuber 2019,
    arXiv 1912.02875; Srivastava et al. 2019, arXiv 1912.02877, eq. 2). It obeys every command,
    also one that nothing in its data ever achieved: that is what the shields are for.

    States, commands and actions are raw; the standardizers are buffers of the model.

    Args:
        state_dim: Size of a state.
        action_dim: Size of an action.
        command_dim: Size of a command: 2, horizon in steps and return in raw reward.
        hidden_dim: Width of the hidden layers.
        n_layers: Number of hidden layers.
        activation: Name of the activation function.
        action_low: Lowest action, one number or one a dimension.
        action_high: Highest action, likewise.
    """

    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        command_dim: int = 2,
        hidden_dim: int = 256,
        n_layers: int = 4,
        activation: str = "silu",
        *,
        action_low: float | Sequence[float] = -1.0,
        action_high: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.hyperparameters: dict[str, Any] = {
            "state_dim": state_dim,
            "action_dim": action_dim,
            "command_dim": command_dim,
            "hidden_dim": hidden_dim,
            "n_layers": n_layers,
            "activation": activation,
            "action_low": _plain(action_low),
            "action_high": _plain(action_high),
        }
        self.state_dim, self.action_dim, self.command_dim = state_dim, action_dim, command_dim
        self.state_standardizer = Standardizer(state_dim)
        self.command_standardizer = Standardizer(command_dim)
        self.register_buffer("action_low", torch.empty(action_dim).copy_(_row(action_low)))
        self.register_buffer("action_high", torch.empty(action_dim).copy_(_row(action_high)))
        self.network = ResidualMLP(
            state_dim + command_dim, 2 * action_dim, hidden_dim, n_layers, activation
        )

    def fit_standardizers(self, states: Tensor, commands: Tensor) -> None:
        """Takes the statistics of the raw training inputs [n, state_dim], [n, command_dim]."""
        self.state_standardizer.fit(states)
        self.command_standardizer.fit(commands)

    def forward(self, state: Tensor, command: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation of the action before it is clipped to its bounds.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.

        Returns:
            (mean [batch, action_dim], log_std [batch, action_dim]), raw action units.

        Raises:
            ShapeError: An input is not [batch, dim].
        """
        mean, log_std = self._outputs(state, command)
        # a soft clamp keeps a gradient where a hard one would have none
        span = 0.5 * (_MAX_LOG_STD - _MIN_LOG_STD)
        return mean, _MIN_LOG_STD + span * (torch.tanh(log_std) + 1.0)

    def sample(self, state: Tensor, command: Tensor, deterministic: bool = False) -> Tensor:
        """Draws actions inside the action bounds.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            deterministic: Whether to take the mean.

        Returns:
            Actions [batch, action_dim], clipped to [action_low, action_high].
        """
        if deterministic:
            mean, _ = self._outputs(state, command)
        else:
            mean, log_std = self(state, command)
            mean = mean + log_std.exp() * torch.randn_like(mean)
        return torch.minimum(torch.maximum(mean, self.action_low), self.action_high)

    def _outputs(self, state: Tensor, command: Tensor) -> tuple[Tensor, ...]:
        """Mean of the action, and what its log-deviation is made of, [batch, action_dim] each."""
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        inputs = torch.cat(
            [self.state_standardizer(state), self.command_standardizer(command)], dim=1
        )
        outputs: tuple[Tensor, ...] = self.network(inputs).chunk(2, dim=1)
        return outputs

    def log_prob(self, state: Tensor, command: Tensor, action: Tensor) -> Tensor:
        """log pi(a | s, g) of the unclipped Gaussian, [batch], nats per raw action unit.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            action: [batch, action_dim], raw.
        """
        check_batch(state=(state, self.state_dim), action=(action, self.action_dim))
        mean, log_std = self(state, command)
        z = (action - mean) * torch.exp(-log_std)
        log_prob: Tensor = -(0.5 * z * z + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=1)
        return log_prob

    def compute_loss(self, state: Tensor, action: Tensor, command: Tensor) -> Tensor:
        """Mean negative log-likelihood of the actions, a scalar, nats.

        Args:
            state: [batch, state_dim], raw.
            action: [batch, action_dim], raw.
            command: [batch, 2], steps and raw return.
        """
        return -self.log_prob(state, command, action).mean()

    def validation_loss(self, state: Tensor, action: Tensor, command: Tensor) -> Tensor:
        """What held-out episodes are judged by: the same likelihood as in training."""
        return self.compute_loss(state, action, command)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes hyperparameters, weights and standardizers to one file."""
        payload = {"hyperparameters": self.hyperparameters, "state_dict": self.state_dict()}
        save_payload(path, "agent", payload)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> "UDRLAgent":
        """Reads an agent that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            FileFormatError: The file is not an agent of a known version, or its settings or
                weights are those of another release.
        """
        payload = load_payload(path, "agent", device=device)
        with rebuilding(path, "agent"):
            agent = cls.from_payload(payload)
        return agent.to(device)

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> "UDRLAgent":
        """Rebuilds an agent from the content of its file."""
        agent = cls(**payload["hyperparameters"])
        agent.load_state_dict(payload["state_dict"])
        return agent.eval()


def _plain(bound: float | Sequence[float]) -> float | list[float]:
    return float(bound) if isinstance(bound, (int, float)) else [float(b) for b in bound]


def _row(bound: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(_plain(bound), dtype=torch.float32)
