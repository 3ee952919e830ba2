"""The coordinates of a mixture: standard normal, there and back, with the Jacobian they say."""

import math

import pytest
import torch

from flowshield.models.ode import standard_normal_log_density
from flowshield.models.shields.gaussian_mixture import (
    PARAMETERS,
    Components,
    components,
    least_scale,
    log_density,
)
from flowshield.models.shields.gaussianization import degaussianize, gaussianize

STD = torch.tensor([60.0, 110.0]).double()


def mixtures(n=20, k=20, spread=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    raw = spread * torch.randn(n, PARAMETERS * k, dtype=torch.float64, generator=generator)
    return components(raw, least_scale(1.0, 1.0).double(), STD)


def normal(n, m, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, 2, dtype=torch.float64, generator=generator)


# components wide apart and a hundred times narrower than the whole are the hard case
@pytest.mark.parametrize(("k", "spread"), [(1, 2.0), (5, 1.0), (20, 2.0), (20, 4.0)])
def test_there_and_back(k, spread):
    mixture, z = mixtures(k=k, spread=spread), 1.5 * normal(20, 50)
    again = gaussianize(mixture, degaussianize(mixture, z))
    torch.testing.assert_close(again, z, rtol=0, atol=1e-5)


def test_back_and_there():
    mixture = mixtures(spread=1.0)
    g = degaussianize(mixture, normal(20, 30))
    torch.testing.assert_close(
        degaussianize(mixture, gaussianize(mixture, g)), g, rtol=0, atol=1e-6
    )


def test_the_jacobian_is_the_ratio_of_the_densities():
    mixture, g = mixtures(n=8, k=4, spread=1.0), 0.8 * normal(8, 1)
    jacobian = torch.autograd.functional.jacobian(lambda x: gaussianize(mixture, x).sum((0, 1)), g)
    _, log_det = torch.linalg.slogdet(jacobian.squeeze(2).transpose(0, 1))
    z = gaussianize(mixture, g)
    expected = log_density(mixture, g) - standard_normal_log_density(z)
    torch.testing.assert_close(log_det, expected.squeeze(1), rtol=0, atol=1e-8)


def test_one_component_is_whitened():
    mixture, z = mixtures(k=1), normal(20, 7)
    c = Components(*(part[..., 0] for part in mixture))
    h = c.mean_h + c.scale_h * z[..., 0]
    r = c.mean_r + c.slope * z[..., 0] + c.scale_r * z[..., 1]
    torch.testing.assert_close(gaussianize(mixture, torch.stack([h, r], dim=2)), z)


def test_a_mixtures_own_samples_become_standard_normal():
    generator = torch.Generator().manual_seed(3)
    mixture = mixtures(n=1, k=5, spread=1.0)
    c = [part[0, 0] for part in mixture]
    n = 40_000
    chosen = torch.multinomial(c[0].softmax(0), n, replacement=True, generator=generator)
    z = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    h = c[1][chosen] + c[3][chosen] * z[:, 0]
    r = c[2][chosen] + c[5][chosen] * z[:, 0] + c[4][chosen] * z[:, 1]
    found = gaussianize(mixture, torch.stack([h, r], dim=1).unsqueeze(0))[0]
    levels = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    for i in (0, 1):
        below = (found[:, i].unsqueeze(1) < torch.special.ndtri(levels)).double().mean(0)
        # five standard errors of a share of n
        assert bool(((below - levels).abs() < 5 * (levels * (1 - levels) / n).sqrt()).all())
    assert abs(float(found.T.corrcoef()[0, 1])) < 5 / math.sqrt(n)


def test_far_outside_it_stays_finite_and_in_order():
    mixture = mixtures(n=1, k=5, spread=1.0)
    far = torch.tensor([[-1e4, 0.0], [-50.0, 0.0], [50.0, 0.0], [1e4, 0.0]]).double().unsqueeze(0)
    z = gaussianize(mixture, far)
    assert bool(z.isfinite().all()) and bool((z[0, :, 0].diff() >= 0).all())
    for single in (torch.float32, torch.float64):
        parts = Components(*(part.to(single) for part in mixture))
        assert bool(gaussianize(parts, far.to(single)).isfinite().all())


def test_single_precision_is_enough():
    mixture, z = mixtures(), normal(20, 50)
    parts = Components(*(part.float() for part in mixture))
    again = gaussianize(parts, degaussianize(parts, z.float()))
    error = (again - z.float()).abs()
    assert float(error.quantile(0.99)) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tails_are_told_apart(dtype):
    # one standard component: z is g itself, as far as 11 deviations out
    zero, one = torch.zeros(1, 1, 1, dtype=dtype), torch.ones(1, 1, 1, dtype=dtype)
    mixture = Components(zero, zero, zero, one, one, zero)
    g = torch.tensor([[[-11.0, 11.0], [-8.0, 8.0], [6.0, -6.0]]], dtype=dtype)
    torch.testing.assert_close(gaussianize(mixture, g), g, rtol=1e-5, atol=0)
    torch.testing.assert_close(degaussianize(mixture, g), g, rtol=1e-5, atol=0)
