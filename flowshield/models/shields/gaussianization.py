"""Coordinates in which a mixture's commands are standard normal, and the way back.

The Knothe-Rosenblatt map of a Gaussian mixture (Rosenblatt 1952, Ann. Math. Statist. 23(3)):
z_1 = Phi^-1(F(H)) and z_2 = Phi^-1(F(R | H)). If the mixture were the truth, z would be N(0, I).
With one component it is the affine map z = L^-1 (g - mean).
"""

__all__ = ["degaussianize", "gaussianize"]

import math

import torch
from torch import Tensor
from torch.special import erfc, ndtri

from flowshield.models.shields.gaussian_mixture import Components

# Smallest tail that is told from none: |z| up to 11.5. Beyond it, z stands still.
_LEAST_TAIL = 1e-30
_LEAST_SHARE = 1e-7  # of a tail: a component that weighs less does not change it
_CUTS, _ROUNDS = 8, 4  # of the bracket: to 1 / 6561 of its width
_NEWTON_STEPS = 3


def gaussianize(c: Components, g: Tensor) -> Tensor:
    """z [batch, n, 2] of standardized commands g [batch, n, 2].

    log |det dz / dg| is `log_density(c, g)` less the log-density of N(0, I) at z.
    """
    h, r = g[..., :1], g[..., 1:]
    z_h = (h - c.mean_h) / c.scale_h
    log_joint = c.logits - c.scale_h.log() - 0.5 * z_h * z_h
    z_r = (r - c.mean_r - c.slope * z_h) / c.scale_r
    return torch.stack(
        [_normal_score(c.logits.softmax(2), z_h), _normal_score(log_joint.softmax(2), z_r)], dim=2
    )


def degaussianize(c: Components, z: Tensor) -> Tensor:
    """Standardized commands [batch, n, 2] of z [batch, n, 2]: the inverse of `gaussianize`."""
    h = _quantile(c.logits.softmax(2), c.mean_h, c.scale_h, z[..., 0])
    z_h = (h.unsqueeze(2) - c.mean_h) / c.scale_h
    weights = (c.logits - c.scale_h.log() - 0.5 * z_h * z_h).softmax(2)
    r = _quantile(weights, c.mean_r + c.slope * z_h, c.scale_r, z[..., 1])
    return torch.stack([h, r], dim=2)


def _lower_tail(z: Tensor) -> Tensor:
    """Phi(z). torch's own ndtr is (1 + erf) / 2, which rounds to 0 below -5.5 in float32."""
    tail: Tensor = 0.5 * erfc(z * -math.sqrt(0.5))
    return tail


def _normal_score(weights: Tensor, z: Tensor) -> Tensor:
    """Phi^-1(sum_k weight_k Phi(z_k)), [batch, n], from the smaller tail: the other rounds to 1."""
    below, above = (weights * _lower_tail(z)).sum(2), (weights * _lower_tail(-z)).sum(2)
    score = ndtri(torch.minimum(below, above).clamp(min=_LEAST_TAIL))
    return torch.where(below < above, score, -score)


def _quantile(weights: Tensor, means: Tensor, scales: Tensor, z: Tensor) -> Tensor:
    """The x [batch, n] whose normal score in the mixtures [batch, n or 1, K] is z [batch, n].

    x lies between the least and the greatest of the components' own. That bracket is cut in nine a
    few times; what is left is narrower than a component, so that Newton's method does the rest.
    """
    side = torch.where(z > 0, -1.0, 1.0).to(z)  # mirrored, so that the tail asked for is the lower
    tail = _lower_tail(-z.abs()).unsqueeze(2)
    means = side.unsqueeze(2) * means
    of_each = means - scales * z.abs().unsqueeze(2)
    # a component without weight may lie anywhere, and must not widen the bracket
    matters = weights > _LEAST_SHARE * tail
    low = torch.where(matters, of_each, torch.inf).amin(2)
    width = torch.where(matters, of_each, -torch.inf).amax(2) - low
    cuts = torch.arange(1, _CUTS + 1, dtype=z.dtype, device=z.device) / (_CUTS + 1)
    for _ in range(_ROUNDS):
        points = (low.unsqueeze(2) + cuts * width.unsqueeze(2)).unsqueeze(3)
        scaled = (points - means.unsqueeze(2)) / scales.unsqueeze(2)
        below = (weights.unsqueeze(2) * _lower_tail(scaled)).sum(3) < tail
        width = width / (_CUTS + 1)
        low = low + below.sum(2) * width
    x = low + width / 2
    for _ in range(_NEWTON_STEPS):
        scaled = (x.unsqueeze(2) - means) / scales
        score = ndtri((weights * _lower_tail(scaled)).sum(2).clamp(min=_LEAST_TAIL))
        # d score / dx = mixture's density / normal density at the score
        density = (weights / scales * torch.exp(-0.5 * scaled * scaled)).sum(2)
        newton = x - (score + z.abs()) * torch.exp(-0.5 * score * score) / density
        newton = torch.where(density > 0, newton, x)
        x = torch.minimum(torch.maximum(newton, low), low + width)
    return side * x
