"""How likely is a return of at least R within H steps: by samples, smoothly and monotonically."""

__all__ = ["log_achievability_by_samples", "whole_horizons"]

import math

import torch
from torch import Tensor
from torch.special import log_ndtr

from flowshield.models.standardizer import CommandStandardizer

_WIDTH = 0.5  # of a sample's kernel, in units of the distance to its neighbours
_LEAST_WIDTH = 1e-3  # deviations of the data: samples that coincide must not make a step


def log_achievability_by_samples(
    samples: Tensor, commands: Tensor, unit: CommandStandardizer
) -> Tensor:
    """log P(R' >= R, H' <= H) from samples of (H', R').

    The mean over the samples of Phi((R_i - R) / r_i) Phi((H - H_i) / h_i). Every term falls in R
    and rises in H, hence so does the mean, strictly, and its logarithm goes on telling requests
    apart beyond the last sample. The widths r_i, h_i are those of each sample's neighbourhood
    (half the distance spanned by its nearest in that coordinate), so that a narrow peak beside a
    wide one is not blurred; they do not depend on the request, which is what monotony needs.

    Args:
        samples: [batch, n, 2], n at least 2.
        commands: Requests [batch, m, 2], in the same units.
        unit: Deviations of horizon and return in the data. Where it is sheared, samples move along
            the shear to whole horizons, and the widths of returns are those of R - c H.

    Returns:
        [batch, m], nats, float64.
    """
    rest, commands = unit.shear(samples.double()), commands.double()
    width = torch.maximum(_neighbourhood(rest), _LEAST_WIDTH * unit.std.double())
    samples = unit.unshear(whole_horizons(rest)) if unit.sheared else rest
    difference = (commands.unsqueeze(2) - samples.unsqueeze(1)) / width.unsqueeze(1)
    terms = log_ndtr(difference[..., 0]) + log_ndtr(-difference[..., 1])
    mean: Tensor = terms.logsumexp(dim=2) - math.log(samples.shape[1])
    return mean


def whole_horizons(commands: Tensor) -> Tensor:
    """Commands [..., 2] with whole horizons of at least 1, their returns as they are."""
    return torch.stack([commands[..., 0].round().clamp(min=1.0), commands[..., 1]], dim=-1)


def _neighbourhood(samples: Tensor) -> Tensor:
    """Half the distance between a sample's neighbours on either side, by coordinate, like samples.

    As many neighbours as is usual where a density is estimated by them: about sqrt(n) in all.
    """
    n = samples.shape[1]
    reach = max(1, round(math.sqrt(n) / 2))
    values, order = samples.sort(dim=1)
    position = torch.arange(n, device=samples.device)
    above, below = (position + reach).clamp(max=n - 1), (position - reach).clamp(min=0)
    width = _WIDTH * (values[:, above] - values[:, below])
    return torch.empty_like(width).scatter_(1, order, width)
