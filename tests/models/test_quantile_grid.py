"""Laws of the distribution that a row of quantiles stands for."""

import pytest
import torch

from flowshield.models.shields.quantile_grid import (
    inverse_distribution,
    log_density,
    log_distribution,
    quantile_levels,
    rising,
)

LEVELS = quantile_levels(8).double()
LINE = torch.linspace(-80, 80, 160_001, dtype=torch.float64)
STEP = 1e-3
SOME = torch.tensor([[0.001, 0.03, 0.0625, 0.2, 0.5, 0.77, 0.9375, 0.96, 0.999]]).double()


def grids(n_quantiles=8):
    """Four rows whose gaps differ by a factor of hundreds."""
    generator = torch.Generator().manual_seed(3)
    raw = 2 * torch.randn(4, n_quantiles, dtype=torch.float64, generator=generator)
    return raw.sort(dim=1).values + 0.01 * torch.arange(n_quantiles)


@pytest.mark.parametrize("n", [2, 3, 32])
def test_levels_rise_are_symmetric_and_denser_in_the_tails(n):
    levels = quantile_levels(n)
    assert bool((levels.diff() > 0).all())
    torch.testing.assert_close(levels + levels.flip(0), torch.ones(n))
    assert 0 < float(levels[0]) < 0.5 / n


def test_rows_rise_whatever_the_network_says():
    grid = rising(30 * torch.randn(200, 8))
    assert bool((grid.diff(dim=1) > 0).all())


def test_the_density_integrates_to_1():
    density = log_density(LEVELS, grids(), LINE.expand(4, -1)).exp()
    torch.testing.assert_close(density.sum(dim=1) * STEP, torch.ones(4).double(), rtol=0, atol=1e-3)


def test_the_density_is_the_slope_of_the_distribution():
    y = torch.linspace(-12, 12, 997, dtype=torch.float64).expand(4, -1).clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_distribution(LEVELS, grids(), y).exp().sum(), y)
    density = log_density(LEVELS, grids(), y).exp()
    torch.testing.assert_close(density, slope, rtol=1e-6, atol=1e-12)


def test_the_density_is_continuous_at_every_quantile_and_in_the_tails():
    grid = grids()
    before = log_density(LEVELS, grid, grid - 1e-9)
    after = log_density(LEVELS, grid, grid + 1e-9)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


def test_the_distribution_never_falls():
    rise = log_distribution(LEVELS, grids(), LINE.expand(4, -1)).diff(dim=1)
    assert float(rise.min()) >= -1e-15


def test_each_level_lies_at_its_quantile():
    grid = grids()
    found = inverse_distribution(LEVELS, grid, LEVELS.expand(4, -1))
    torch.testing.assert_close(found, grid)
    shares = log_distribution(LEVELS, grid, grid).exp()
    torch.testing.assert_close(shares, LEVELS.expand(4, -1))


def test_the_inverse_distribution_inverts_the_distribution():
    u = SOME.expand(4, -1)
    y = inverse_distribution(LEVELS, grids(), u)
    assert bool((y.diff(dim=1) > 0).all())
    torch.testing.assert_close(log_distribution(LEVELS, grids(), y).exp(), u)


@torch.no_grad()
def test_the_levels_0_and_1_lie_somewhere_finite():
    ends = torch.tensor([[0.0, 1.0]]).double().expand(4, -1)
    assert bool(inverse_distribution(LEVELS, grids(), ends).isfinite().all())


def test_a_normal_distributions_quantiles_give_back_its_density():
    levels = quantile_levels(32).double()
    normal = torch.distributions.Normal(0.0, 1.0)
    y = torch.linspace(-1.9, 1.9, 400, dtype=torch.float64).unsqueeze(0)
    found = log_density(levels, normal.icdf(levels).unsqueeze(0), y)
    assert float((found - normal.log_prob(y)).abs().max()) < 0.06


def test_what_is_not_a_number_has_no_density():
    y = torch.full((4, 1), torch.nan, dtype=torch.float64)
    assert bool(log_density(LEVELS, grids(), y).isnan().all())
