import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from flowshield.models.shields.bivariate_normal import orthant_probability

CORRELATIONS = [0.0, 0.1, -0.5, 0.9, -0.9249, 0.9251, -0.95, 0.99, -0.9999, 1 - 1e-7, -1 + 1e-9]


def orthant(x, y, r):
    found = orthant_probability(*(torch.as_tensor(v, dtype=torch.float64) for v in (x, y, r)))
    return found.numpy()


def by_scipy(x, y, r):
    cov = [[1.0, r], [r, 1.0]]
    return multivariate_normal.cdf([-x, -y], cov=cov, allow_singular=True)


@pytest.mark.parametrize("r", CORRELATIONS)
def test_it_is_scipys(r):
    rng = np.random.default_rng(0)
    x = 2 * rng.standard_normal(25)
    # half of them near the line on which a steep one changes
    y = np.where(rng.random(25) < 0.5, np.sign(r) * x, 0) + rng.standard_normal(25)
    y[:5] = np.sign(r) * x[:5] + 2 * math.sqrt(1 - r * r) * rng.standard_normal(5)
    expected = [by_scipy(a, b, r) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(orthant(x, y, r), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("r", [0.6, -0.8, 0.93, -0.97])
@pytest.mark.parametrize(("x", "y"), [(0.3, -1.2), (-2.0, 2.5), (1.5, 1.4), (4.0, -3.0)])
def test_it_is_the_integral(x, y, r):
    def density(t):
        return norm.pdf(t) * norm.cdf((r * t - y) / math.sqrt(1 - r * r))

    expected, _ = quad(density, x, 12, epsabs=1e-14, epsrel=1e-12, limit=200)
    assert float(orthant(x, y, r)) == pytest.approx(expected, abs=1e-13)


# by mpmath's quadrature with 30 digits
EXACT = [
    (-1.0121192340228877, 2.036304249417647, -0.9249, 0.000060451779349489593956),
    (1.09934267085195, 1.302771965269103, 0.9251, 0.082127803117690395967),
    (-0.9536403075253292, -1.3512797395772465, 0.9249, 0.82358498501817759468),
    (-0.09455698383611577, 0.35336499634671487, -0.9251, 0.022908088927011402732),
    (-3.0887595482985803, -4.446208490011848, 0.5, 0.99899149379124192636),
]


@pytest.mark.parametrize(("x", "y", "r", "expected"), EXACT)
def test_its_error_is_below_a_quadrillionth(x, y, r, expected):
    assert abs(float(orthant(x, y, r)) - expected) < 1e-15


def test_equal_halves_have_sheppards_closed_form():
    r = np.linspace(-0.999999, 0.999999, 401)
    expected = 0.25 + np.arcsin(r) / (2 * np.pi)
    np.testing.assert_allclose(orthant(0.0, 0.0, r), expected, atol=1e-13)


@pytest.mark.parametrize("r", CORRELATIONS)
def test_the_four_quadrants_make_1_and_a_pair_of_them_a_margin(r):
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(-4, 4, 17), np.linspace(-4, 4, 17)))
    right = orthant(x, y, r) + orthant(x, -y, -r)
    np.testing.assert_allclose(right, norm.sf(x), atol=1e-13)
    left = orthant(-x, y, -r) + orthant(-x, -y, r)
    np.testing.assert_allclose(right + left, 1.0, atol=1e-13)
    np.testing.assert_allclose(orthant(x, y, r), orthant(y, x, r), atol=1e-14)


@pytest.mark.parametrize("r", CORRELATIONS)
def test_asking_for_more_is_never_likelier(r):
    x, y = np.meshgrid(np.linspace(-5, 5, 201), np.linspace(-5, 5, 41))
    for a, b in ((x, y), (y, x)):
        found = orthant(a, b, r)
        assert found.min() >= 0.0 and found.max() <= 1.0
        assert max(np.diff(found, axis=0).max(), np.diff(found, axis=1).max()) < 1e-14


def test_it_rises_with_the_correlation():
    r = np.linspace(-1, 1, 4001)
    for x, y in ((0.5, -0.3), (1.0, 1.0), (-1.0, 1.2), (2.0, -2.0)):
        assert np.diff(orthant(x, y, r)).min() > -1e-14


def test_a_perfect_correlation_is_a_limit():
    x, y = np.array([0.3, -1.0, 2.0]), np.array([0.3, 0.5, -2.5])
    np.testing.assert_allclose(orthant(x, y, 1.0), norm.sf(np.maximum(x, y)), atol=1e-13)
    expected = np.clip(norm.cdf(-y) - norm.cdf(x), 0, None)
    np.testing.assert_allclose(orthant(x, y, -1.0), expected, atol=1e-13)


@pytest.mark.parametrize("r", [0.0, 0.5, -0.99, 0.9999])
def test_infinite_arguments_leave_the_margins_and_nan_stays_nan(r):
    inf, nan = math.inf, math.nan
    found = orthant([-inf, -inf, inf, 1e30, 0.7], [-inf, 0.7, -inf, -1e30, inf], r)
    np.testing.assert_allclose(found, [1.0, norm.sf(0.7), 0.0, 0.0, 0.0], atol=1e-14)
    assert np.isnan(orthant([nan, 0.0], [0.0, nan], r)).all()
    assert np.isnan(orthant(0.0, 0.0, nan))


def test_shapes_broadcast_and_single_precision_is_computed_in_double():
    x, y = torch.randn(3, 1), torch.randn(1, 4)
    found = orthant_probability(x, y, torch.tensor(0.97))
    assert found.shape == (3, 4) and found.dtype == torch.float64
    assert orthant_probability(x[:0], y, torch.tensor(0.97)).shape == (0, 4)
    expected = orthant_probability(x.double(), y.double(), torch.tensor(0.97).double())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
