"""The command-conditioned policy of upside-down reinforcement learning."""

__all__ = ["UDRLAgent"]

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowshield.errors import ConfigError
from flowshield.models.action_heads import ActionHead, CategoricalHead, GaussianHead
from flowshield.models.checks import check_batch
from flowshield.models.networks import ResidualMLP, Standardizer
from flowshield.models.serialization import load_payload, rebuilding, rebuilt, save_payload


class UDRLAgent(nn.Module):
    """pi(a | s, g): a distribution over actions given state and command (H, R).

    A Gaussian over continuous actions, or with `n_actions` a probability for each discrete one;
    `head` is the one or the other.

    Trained by maximum likelihood on what the data did and on what came of it (Schmidhuber 2019,
    arXiv 1912.02875; Srivastava et al. 2019, arXiv 1912.02877, eq. 2). It obeys every command,
    also one that nothing in its data ever achieved: that is what the shields are for.

    States, commands and actions are raw; the standardizers are buffers of the model.

    Args:
        state_dim: Size of a state.
        action_dim: Size of an action; 1 where actions are discrete.
        command_dim: Size of a command: 2, horizon in steps and return in raw reward.
        hidden_dim: Width of the hidden layers.
        n_layers: Number of hidden layers.
        activation: Name of the activation function.
        action_low: Lowest action, one number or one a dimension.
        action_high: Highest action, likewise.
        n_actions: Number of discrete actions, which are 0..n_actions-1 whatever the bounds above;
            None = actions are continuous.

    Raises:
        ConfigError: The activation is unknown, or there are discrete actions and action_dim is not
            1.
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
        n_actions: int | None = None,
    ) -> None:
        super().__init__()
        if n_actions is not None and (n_actions < 1 or action_dim != 1):
            raise ConfigError(
                f"expected n_actions >= 1 and with it action_dim=1, got n_actions={n_actions} and "
                f"action_dim={action_dim}"
            )
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
        if n_actions is not None:  # files of continuous agents stay what they were
            self.hyperparameters["n_actions"] = n_actions
        self.state_dim, self.action_dim, self.command_dim = state_dim, action_dim, command_dim
        self.n_actions = n_actions
        self.head: ActionHead = (
            GaussianHead(action_dim) if n_actions is None else CategoricalHead(n_actions)
        )
        self.state_standardizer = Standardizer(state_dim)
        self.command_standardizer = Standardizer(command_dim)
        if n_actions is None:
            low = torch.empty(action_dim).copy_(_row(action_low))
            high = torch.empty(action_dim).copy_(_row(action_high))
        else:
            low, high = torch.tensor([0]), torch.tensor([n_actions - 1])
        self.register_buffer("action_low", low)
        self.register_buffer("action_high", high)
        self.network = ResidualMLP(
            state_dim + command_dim, self.head.n_outputs, hidden_dim, n_layers, activation
        )

    def fit_standardizers(self, states: Tensor, commands: Tensor) -> None:
        """Takes the statistics of the raw training inputs [n, state_dim], [n, command_dim]."""
        self.state_standardizer.fit(states)
        self.command_standardizer.fit(commands)

    def forward(self, state: Tensor, command: Tensor) -> Any:
        """The parameters of the distribution over actions.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.

        Returns:
            Of continuous actions (mean [batch, action_dim], log_std [batch, action_dim]), raw
            action units, before they are clipped to the bounds; of discrete ones log-probabilities
            [batch, n_actions], nats.

        Raises:
            ShapeError: An input is not [batch, dim].
        """
        return self.head.parameters(self._outputs(state, command))

    def sample(
        self,
        state: Tensor,
        command: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws actions inside the action bounds.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            deterministic: Whether to take the mean, or the likeliest of discrete actions.
            generator: What is drawn from, on the agent's device; None = torch's own.

        Returns:
            Actions [batch, action_dim], clipped to [action_low, action_high]; discrete ones
            [batch, 1], int64.
        """
        action = self.head.sample(self._outputs(state, command), deterministic, generator)
        return torch.minimum(torch.maximum(action, self.action_low), self.action_high)

    def _outputs(self, state: Tensor, command: Tensor) -> Tensor:
        """What the head makes a distribution of, [batch, n_outputs]."""
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        inputs = torch.cat(
            [self.state_standardizer(state), self.command_standardizer(command)], dim=1
        )
        outputs: Tensor = self.network(inputs)
        return outputs

    def log_prob(self, state: Tensor, command: Tensor, action: Tensor) -> Tensor:
        """log pi(a | s, g), [batch], nats; of the unclipped Gaussian, per raw action unit.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            action: [batch, action_dim], raw; discrete ones [batch, 1], int64.

        Raises:
            ShapeError: An input is not [batch, dim].
            DataError: Actions are no whole numbers where they are discrete.
        """
        check_batch(state=(state, self.state_dim), action=(action, self.action_dim))
        return self.head.log_prob(self._outputs(state, command), action)

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
        return rebuilt(cls, payload["hyperparameters"], payload["state_dict"]).eval()


def _plain(bound: float | Sequence[float]) -> float | list[float]:
    return float(bound) if isinstance(bound, (int, float)) else [float(b) for b in bound]


def _row(bound: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(_plain(bound), dtype=torch.float32)
