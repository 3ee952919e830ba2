"""Mixtures of normal distributions on the line."""

__all__ = ["NormalMixture"]

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flowshield.errors import ConfigError

_HALVINGS = 80  # of a bracket: down to double precision from any width that matters


class NormalMixture(NamedTuple):
    """One mixture sum_k weight_k N(mean_k, scale_k^2) a row.

    Attributes:
        weights: [batch, K], positive, summing to 1 in each row.
        means: [batch, K].
        scales: [batch, K], standard deviations.
    """

    weights: Tensor
    means: Tensor
    scales: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [batch] at values [batch]."""
        z = (value.unsqueeze(1) - self.means) / self.scales
        terms = self.weights.log() - 0.5 * z * z - self.scales.log()
        log_prob: Tensor = terms.logsumexp(dim=1) - 0.5 * math.log(2 * math.pi)
        return log_prob

    def distribution(self, value: Tensor) -> Tensor:
        """P(X <= value), [batch], of values [batch]."""
        z = (value.unsqueeze(1) - self.means) / self.scales
        probability: Tensor = (self.weights * torch.special.ndtr(z)).sum(dim=1)
        return probability

    def quantile(self, level: float) -> Tensor:
        """The value [batch] that a share `level` stays below, by bisection.

        Raises:
            ConfigError: The level is not inside (0, 1).
        """
        if not 0.0 < level < 1.0:
            raise ConfigError(f"expected a level above 0 and below 1, got {level}")
        # the mixture's quantile lies between the least and the greatest of the components'
        z = torch.special.ndtri(torch.tensor(level, dtype=torch.float64)).to(self.means)
        of_each = self.means + z * self.scales
        low, high = of_each.amin(dim=1), of_each.amax(dim=1)
        for _ in range(_HALVINGS):
            halfway = (low + high) / 2
            below = self.distribution(halfway) < level
            low, high = torch.where(below, halfway, low), torch.where(below, high, halfway)
        middle: Tensor = (low + high) / 2
        return middle
