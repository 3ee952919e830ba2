"""The command-conditioned policy of upside-down reinforcement learning."""

__all__ = ["UDRLAgent"]

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowshield.errors import ConfigError
from flowshield.models.action_heads import (
    LEAST_DEVIATION,
    ActionHead,
    CategoricalHead,
    GaussianHead,
)
from flowshield.models.checks import check_batch
from flowshield.models.networks import ResidualMLP
from flowshield.models.serialization import load_payload, rebuilding, rebuilt, save_payload
from flowshield.models.standardizer import COMMAND_NAMES, Standardizer, state_names


class UDRLAgent(nn.Module):
    """pi(a | s, g): a distribution over actions given state and command (H, R).

    A Gaussian over continuous actions, or with `n_actions` a probability for each discrete one;
    `head` is the one or the other.

    Trained by maximum likelihood on what the data did and on what came of it (Schmidhuber 2019,
    arXiv 1912.02875; Srivastava et al. 2019, arXiv 1912.02877, eq. 2). It obeys every command,
    also one that nothing in its data ever achieved: that is what the shields are for.

    States, commands and actions are raw; the standardizers are buffers of the model. The Gaussian
    is that of (action - action_center) / action_scale, where its least deviation is 0.08.

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
    action_center: Tensor
    action_scale: Tensor

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
        if n_actions is None:
            self.register_buffer("action_center", torch.zeros(action_dim))
            self.register_buffer("action_scale", torch.ones(action_dim))
            self._fit_actions(None)
        self.network = ResidualMLP(
            state_dim + command_dim, self.head.n_outputs, hidden_dim, n_layers, activation
        )

    def fit_standardizers(
        self, states: Tensor, commands: Tensor, actions: Tensor | None = None
    ) -> None:
        """Takes the statistics of the raw training data.

        Args:
            states: [n, state_dim].
            commands: [n, command_dim].
            actions: [n, action_dim]; None = the action bounds alone set the unit of actions.

        Warns:
            DataWarning: See `Standardizer.fit`.
        """
        self.state_standardizer.fit(states, state_names(self.state_dim))
        self.command_standardizer.fit(commands, COMMAND_NAMES)
        if self.n_actions is None:
            self._fit_actions(actions)

    def _fit_actions(self, actions: Tensor | None) -> None:
        """Sets the unit of continuous actions: half the width of their bounds.

        Where there are no bounds, or the data use so little of them that the least deviation of
        the Gaussian would be half of the actions' own, it is the deviation of the actions.
        """
        low, high = self.action_low.double(), self.action_high.double()
        center, scale = (low + high) / 2, (high - low) / 2
        used = torch.isfinite(scale) & (scale > 0.0)
        if actions is not None:
            mean, std = (f(actions.double(), dim=0) for f in (torch.mean, _deviation))
            used &= (std == 0.0) | (LEAST_DEVIATION * scale <= 0.5 * std)
            own = torch.where(std > 0.0, std, torch.ones_like(std))
            center, scale = torch.where(used, center, mean), torch.where(used, scale, own)
        else:
            center = torch.where(used, center, torch.zeros_like(center))
            scale = torch.where(used, scale, torch.ones_like(scale))
        self.action_center.copy_(center)
        self.action_scale.copy_(scale)

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
        parameters = self.head.parameters(self._outputs(state, command))
        if self.n_actions is not None:
            return parameters
        mean, log_std = parameters
        return mean * self.action_scale + self.action_center, log_std + self.action_scale.log()

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
        if self.n_actions is None:
            action = action * self.action_scale + self.action_center
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
        outputs = self._outputs(state, command)
        if self.n_actions is not None:
            return self.head.log_prob(outputs, action)
        standardized = (action - self.action_center) / self.action_scale
        return self.head.log_prob(outputs, standardized) - self.action_scale.log().sum()

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


def _deviation(x: Tensor, dim: int) -> Tensor:
    return x.std(dim=dim, correction=0)


def _plain(bound: float | Sequence[float]) -> float | list[float]:
    return float(bound) if isinstance(bound, (int, float)) else [float(b) for b in bound]


def _row(bound: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(_plain(bound), dtype=torch.float32)
