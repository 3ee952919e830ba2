"""Groups of states: which of several thresholds decides at a state."""

__all__ = ["StateGroups"]

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from flowshield.errors import ConfigError, DataError

_MOST_ROWS = 20_000  # of which the centres are computed: more move them by nothing that matters


@dataclass(frozen=True)
class StateGroups:
    """A partition of the states by their nearest centre.

    Attributes:
        centers: [k, state_dim], in standardized units, float64 on the CPU.
    """

    centers: Tensor

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.centers)

    @classmethod
    def single(cls, state_dim: int) -> "StateGroups":
        """One group that holds every state."""
        return cls(torch.zeros(1, state_dim, dtype=torch.float64))

    @classmethod
    def fit(cls, states: Tensor, k: int, seed: int = 0) -> "StateGroups":
        """k-means with k-means++ starts (Arthur & Vassilvitskii 2007), the same for a seed.

        Args:
            states: [n, state_dim], standardized.
            k: Number of groups, at least 1.
            seed: Of the starts, and of the draw of rows where there are very many.

        Raises:
            ConfigError: k is below 1.
            DataError: There are fewer than k different states.
        """
        if k < 1:
            raise ConfigError(f"groups: expected at least 1 group of states, got {k}")
        if k == 1:
            return cls.single(states.shape[1])
        rng = np.random.default_rng(seed)
        rows = states.detach().double().cpu().numpy()
        if len(rows) > _MOST_ROWS:
            rows = rows[rng.choice(len(rows), _MOST_ROWS, replace=False)]
        different = len(np.unique(rows, axis=0))
        if different < k:
            raise DataError(
                f"{k} groups need {k} different states at least, got {different}: ask for fewer"
            )
        centers, _ = kmeans2(rows, k, minit="++", seed=rng)
        return cls(torch.from_numpy(centers))

    def assign(self, states: Tensor) -> Tensor:
        """The group of each standardized state [batch, state_dim]: indices [batch]."""
        if len(self) == 1:
            return torch.zeros(len(states), dtype=torch.long, device=states.device)
        centers = self.centers.to(states.device)
        return torch.cdist(states.double(), centers).argmin(dim=1)
