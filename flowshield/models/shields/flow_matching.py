"""Shield by conditional flow matching."""

__all__ = ["FlowMatchingShield"]

from typing import ClassVar

import torch
from torch import Tensor

from flowshield.models.checks import check_batch
from flowshield.models.shields.continuous import ContinuousShield


class FlowMatchingShield(ContinuousShield):
    """p(g | s) by flow matching (Lipman et al. 2022, arXiv 2210.02747, eq. 20-23; sigma_min = 0).

    t = 0 is noise, t = 1 is data: x_t = (1 - t) x_0 + t x_1, with velocity x_1 - x_0. Noise and
    data are paired independently: optimal transport within a batch gives a wrong conditional where
    the condition is continuous (arXiv 2503.10636).

    The straight path is the circle of `ContinuousShield` at tan(angle) = t / (1 - t), scaled by
    sigma_t = sqrt(t^2 + (1 - t)^2). Its velocity is (2 t - 1) / sigma_t^2 x, which is exact for
    standard normal data and known, plus the circle's velocity / sigma_t, which is learnt: so the
    error of the velocity is that of the circle's, weighted by 1 / sigma_t^2.
    Arguments: see `ContinuousShield`.
    """

    shield_type: ClassVar[str] = "flow_matching"

    def velocity(self, g: Tensor, t: Tensor, state: Tensor) -> Tensor:
        """The learnt velocity field, in the coordinates of the flow (`ContinuousShield`).

        Args:
            g: Points x_t on the way from noise to data, [batch, 2].
            t: Times in [0, 1], [] or [batch]; 0 is noise.
            state: [batch, state_dim], raw.

        Returns:
            dx/dt, [batch, 2].
        """
        check_batch(g=(g, self.command_dim), state=(state, self.state_dim))
        features = self.field.encode(self.state_standardizer(state)).features
        angle = torch.atan2(t, 1 - t)
        on_circle = self.field.time_bias(angle) + features
        t, variance = t.unsqueeze(-1), (t * t + (1 - t) ** 2).unsqueeze(-1)
        learnt: Tensor = self.field(g / variance.sqrt(), on_circle)
        return (2 * t - 1) / variance * g + learnt / variance.sqrt()

    def _sample_angles(self, n: int, device: torch.device) -> Tensor:
        # t uniform, one in each n-th of [0, 1]: less noise in the loss than n free draws
        t = (torch.randperm(n, device=device) + torch.rand(n, device=device)) / n
        return torch.atan2(t, 1 - t)

    def _error_weights(self, angles: Tensor) -> Tensor:
        return 1 + torch.sin(2 * angles)  # 1 / sigma_t^2 = (cos + sin)^2
