"""What an agent's network says about the action: a Gaussian over numbers, or a choice of one."""

__all__ = ["LEAST_DEVIATION", "ActionHead", "CategoricalHead", "GaussianHead", "Generators"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowshield.errors import DataError

_MIN_LOG_STD, _MAX_LOG_STD = -2.5, 1.0
LEAST_DEVIATION = math.exp(_MIN_LOG_STD)  # of the Gaussian, in the unit of actions


Generators: TypeAlias = torch.Generator | Sequence[np.random.Generator] | None
"""What actions are drawn from: one generator for a batch, one per row, or torch's own (None).

With one per row, what is drawn in a row does not depend on the others.
"""


class ActionHead(Protocol):
    """A distribution over actions, given what the network puts out."""

    @property
    def n_outputs(self) -> int:
        """Numbers that the network puts out."""

    def parameters(self, outputs: Tensor) -> Any:
        """The distribution's parameters, of outputs [batch, n_outputs]."""

    def sample(self, outputs: Tensor, deterministic: bool, generator: Generators) -> Tensor:
        """Actions [batch, action_dim], drawn or the likeliest."""

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        """log-density or log-probability of actions [batch, action_dim], [batch], nats."""


@dataclass(frozen=True)
class GaussianHead:
    """Independent Gaussians, one a dimension of the action, in the agent's unit of actions.

    Args:
        action_dim: Size of an action.
    """

    action_dim: int

    @property
    def n_outputs(self) -> int:
        """A mean and what the log-deviation is made of, a dimension."""
        return 2 * self.action_dim

    def parameters(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(mean [batch, action_dim], log_std [batch, action_dim])."""
        mean, log_std = outputs.chunk(2, dim=1)
        # a soft clamp keeps a gradient where a hard one would have none
        span = 0.5 * (_MAX_LOG_STD - _MIN_LOG_STD)
        return mean, _MIN_LOG_STD + span * (torch.tanh(log_std) + 1.0)

    def sample(self, outputs: Tensor, deterministic: bool, generator: Generators) -> Tensor:
        """Actions [batch, action_dim], float32; deterministic: the mean."""
        if deterministic:
            return outputs[:, : self.action_dim]
        mean, log_std = self.parameters(outputs)
        if isinstance(generator, Sequence):
            rows = np.array([own.standard_normal(self.action_dim) for own in generator])
            return mean + log_std.exp() * torch.from_numpy(rows).to(mean)
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return mean + log_std.exp() * noise

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        """Log-density of actions [batch, action_dim], [batch], nats per unit."""
        mean, log_std = self.parameters(outputs)
        z = (action - mean) * torch.exp(-log_std)
        log_prob: Tensor = -(0.5 * z * z + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=1)
        return log_prob


@dataclass(frozen=True)
class CategoricalHead:
    """A probability for each of several actions.

    Its log-likelihood is the cross-entropy by which upside-down RL learns discrete actions
    (Srivastava et al. 2019, arXiv 1912.02877, section 3).

    Args:
        n_actions: How many there are.
    """

    n_actions: int

    @property
    def n_outputs(self) -> int:
        """A logit an action."""
        return self.n_actions

    def parameters(self, outputs: Tensor) -> Tensor:
        """Log-probabilities [batch, n_actions], nats."""
        return torch.log_softmax(outputs, dim=1)

    def sample(self, outputs: Tensor, deterministic: bool, generator: Generators) -> Tensor:
        """Actions [batch, 1], int64; deterministic: the likeliest, the first of equals."""
        if deterministic:
            return outputs.argmax(dim=1, keepdim=True)
        probabilities = torch.softmax(outputs, dim=1)
        if isinstance(generator, Sequence):
            rows = torch.from_numpy(np.array([[own.random()] for own in generator])).to(outputs)
            passed = (probabilities.cumsum(dim=1) <= rows).sum(dim=1, keepdim=True)
            return passed.clamp(max=self.n_actions - 1)  # rounding may leave the sum below 1
        return torch.multinomial(probabilities, 1, generator=generator)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        """Log-probability of actions [batch, 1], [batch], nats.

        Raises:
            DataError: The actions are no whole numbers.
        """
        if action.dtype != torch.int64:
            raise DataError(
                f"this agent chooses one of {self.n_actions} actions: expected int64 numbers "
                f"0..{self.n_actions - 1}, got {action.dtype}; data with continuous actions need "
                "an agent without n_actions"
            )
        return self.parameters(outputs).gather(1, action).squeeze(1)
