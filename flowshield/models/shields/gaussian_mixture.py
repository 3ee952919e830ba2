"""Mixtures of Gaussians over commands, as a network gives them for a batch of states."""

__all__ = ["PARAMETERS", "Components", "components", "least_scale", "log_density", "start_apart"]

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

PARAMETERS = 6  # of a component: log-weight, two means, two scales, slope
_LOG_2PI = math.log(2 * math.pi)
_LEAST_SCALE = 1e-3  # of a component, standardized units: keeps the density finite


class Components(NamedTuple):
    """Parameters of every state's Gaussians, each [batch, 1, K], standardized units.

    A component's scale is lower triangular: H = mean_h + scale_h z_1 and
    R = mean_r + slope z_1 + scale_r z_2, with z_1 and z_2 independent and standard normal.

    Attributes:
        logits: Log-weights, up to a constant.
        mean_h: Mean of H.
        mean_r: Mean of R.
        scale_h: Deviation of H.
        scale_r: Deviation of R given H.
        slope: What R gains for a deviation of H.
    """

    logits: Tensor
    mean_h: Tensor
    mean_r: Tensor
    scale_h: Tensor
    scale_r: Tensor
    slope: Tensor


def least_scale(horizon_noise: float, return_noise: float) -> Tensor:
    """The scales below which no component need go, raw units, [2].

    R less the dequantising noise has some distribution, so R given H never varies less than that
    noise; H is uniform over its own, to which components of a quarter of that come close.
    """
    return torch.tensor([0.25 * horizon_noise, return_noise])


def components(raw: Tensor, least_raw: Tensor, std: Tensor) -> Components:
    """Makes a network's output the parameters of a mixture.

    Args:
        raw: [batch, PARAMETERS * K].
        least_raw: From `least_scale`, [2].
        std: The commands' deviations, raw units, [2].
    """
    raw = raw.view(len(raw), PARAMETERS, 1, raw.shape[1] // PARAMETERS)
    least = (least_raw / std).clamp(min=_LEAST_SCALE)
    # exponential below 1, so that small scales are learnt as fast as large ones, and linear
    # above, so that a state like no other does not make one explode
    scale_h, scale_r = (functional.softplus(raw[:, 3:5]) + least.view(2, 1, 1)).unbind(1)
    logits, mean_h, mean_r, _, _, slope = raw.unbind(1)
    return Components(logits, mean_h, mean_r, scale_h, scale_r, slope)


def start_apart(last: nn.Linear, first: int, n_components: int) -> None:
    """Initialises the rows of an output layer that give a mixture, from row `first` on.

    Components that start in one place stay together for long: their means are drawn apart. And a
    state says little at first: with a tenth of the usual weights, 8 epochs on 3,000 mixed
    LunarLander episodes reach 8.22 nats and not 8.46 on test episodes.
    """
    with torch.no_grad():
        last.weight[first : first + PARAMETERS * n_components] *= 0.1
        last.bias[first + n_components : first + 3 * n_components].normal_()


def log_density(c: Components, g: Tensor) -> Tensor:
    """Log-density [batch, n] at standardized commands [batch, n, 2]."""
    z_1 = (g[..., :1] - c.mean_h) / c.scale_h
    z_2 = (g[..., 1:] - c.mean_r - c.slope * z_1) / c.scale_r
    terms = c.logits - (c.scale_h * c.scale_r).log() - 0.5 * (z_1 * z_1 + z_2 * z_2)
    return terms.logsumexp(dim=2) - c.logits.logsumexp(dim=2) - _LOG_2PI
