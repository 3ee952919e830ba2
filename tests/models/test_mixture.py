import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from flowshield.errors import ConfigError, ShapeError
from flowshield.models import MixtureShield
from flowshield.models.shields import NormalMixture

MEAN, STD = (120.0, 50.0), (60.0, 110.0)  # of the commands


def shield(seed=0, spread=0.3, **options):
    """Random weights, standardizers that are not the identity."""
    torch.manual_seed(seed)
    made = MixtureShield(2, **{"hidden_dim": 16, "n_layers": 2, "n_components": 5, **options})
    made = made.double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    made.state_standardizer.std.copy_(torch.tensor([3.0, 0.5]))
    made.command_standardizer.mean.copy_(torch.tensor(MEAN))
    made.command_standardizer.std.copy_(torch.tensor(STD))
    return made


def states(n=3):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def commands(n=3, seed=2):
    noise = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return noise * torch.tensor(STD) + torch.tensor(MEAN)


@torch.no_grad()
def gaussians(made, state):
    """Weights [K], raw means [K, 2] and raw covariances [K, 2, 2] at one state [1, 2]."""
    c = [part[0, 0].numpy() for part in made._components(state)]
    logits, mean_h, mean_r, scale_h, scale_r, slope = c
    weights = np.exp(logits - logits.max())
    lower = np.zeros((len(logits), 2, 2))
    lower[:, 0, 0], lower[:, 1, 0], lower[:, 1, 1] = scale_h, slope, scale_r
    lower = np.diag(STD) @ lower
    means = np.stack([mean_h, mean_r], axis=1) * STD + MEAN
    return weights / weights.sum(), means, lower @ lower.transpose(0, 2, 1)


@torch.no_grad()
def test_log_prob_is_the_sum_of_the_gaussians_densities():
    made = shield()
    for state, command in itertools.product(states().split(1), commands(4).split(1)):
        density = sum(
            weight * multivariate_normal.pdf(command[0], mean, cov)
            for weight, mean, cov in zip(*gaussians(made, state), strict=True)
        )
        assert float(made.log_prob(state, command)) == pytest.approx(math.log(density), abs=1e-10)


@torch.no_grad()
def test_the_density_integrates_to_1():
    made = shield()
    grid = torch.cartesian_prod(torch.arange(-500, 740, 5.0), torch.arange(-1000, 1100, 8.0))
    log_prob = made.log_prob(states(1).expand(len(grid), 2), grid.double())
    assert float(log_prob.exp().sum()) * 40 == pytest.approx(1.0, abs=1e-3)


def test_the_loss_is_the_likelihood_in_standardized_units():
    made = shield(horizon_noise=0.0, return_noise=0.0)
    expected = -made.log_prob(states(), commands()).mean() - sum(math.log(std) for std in STD)
    torch.testing.assert_close(made.compute_loss(states(), commands()), expected)


def test_the_gradient_of_the_loss_is_its_difference():
    made = shield(horizon_noise=0.0, return_noise=0.0)
    bias = made.network.last.bias
    (slope,) = torch.autograd.grad(made.compute_loss(states(), commands()), bias)
    for i in range(0, len(bias), 4):
        found = []
        for step in (1e-5, -2e-5):
            bias.data[i] += step
            found.append(float(made.compute_loss(states(), commands()).detach()))
        bias.data[i] += 1e-5
        assert (found[0] - found[1]) / 2e-5 == pytest.approx(float(slope[i]), abs=1e-7)


@pytest.mark.parametrize(("horizon_noise", "return_noise"), [(1.0, 1.0), (4.0, 0.0), (0.0, 30.0)])
@torch.no_grad()
def test_no_component_is_narrower_than_the_noise_nor_than_a_thousandth(horizon_noise, return_noise):
    noises = {"horizon_noise": horizon_noise, "return_noise": return_noise}
    c = shield(spread=30.0, **noises)._components(100 * states(200))
    assert float(c.scale_h.min()) == pytest.approx(max(horizon_noise / 4 / STD[0], 1e-3))
    assert float(c.scale_r.min()) == pytest.approx(max(return_noise / STD[1], 1e-3))
    assert all(bool(torch.isfinite(part).all()) for part in c)


@torch.no_grad()
def test_samples_have_the_mixtures_moments_and_their_own_log_prob():
    made, state = shield(), states()
    torch.manual_seed(5)
    samples, log_prob = made.sample_with_log_prob(state, 20_000)
    again = made.log_prob(state.repeat_interleave(20_000, 0), samples.reshape(-1, 2))
    torch.testing.assert_close(log_prob.reshape(-1), again)
    for row in range(3):
        weights, means, covs = gaussians(made, state[row : row + 1])
        mean = weights @ means
        centred = means - mean
        cov = np.einsum("k,kij->ij", weights, covs + centred[:, :, None] * centred[:, None])
        deviation = np.sqrt(np.diag(cov))
        found = samples[row].numpy()
        assert np.abs((found.mean(0) - mean) / deviation).max() < 0.03
        scale = np.outer(deviation, deviation)
        assert np.abs((np.cov(found.T) - cov) / scale).max() < 0.06


@torch.no_grad()
def test_samples_fill_the_levels_of_the_distribution_evenly():
    # of H alone, and of R given H: Rosenblatt's transform, in ten cells each
    made, state, n = shield(), states(1), 20_000
    torch.manual_seed(6)
    samples = made.sample_with_log_prob(state, n)[0][0]
    weights, means, covs = (torch.as_tensor(v) for v in gaussians(made, state))
    marginal = NormalMixture(weights[None], means[None, :, 0], covs[None, :, 0, 0].sqrt())
    first = marginal.distribution(samples[:, 0])
    second = made.conditional(state.expand(n, 2), samples[:, 0]).distribution(samples[:, 1])
    cells = (10 * first).long() * 10 + (10 * second).long()
    counts = torch.bincount(cells, minlength=100).double()
    chi_square = float(((counts - n / 100) ** 2 / (n / 100)).sum())
    assert chi_square < 148.2  # 99 degrees of freedom: exceeded with probability 0.001


@torch.no_grad()
def test_the_conditional_is_the_joint_over_the_marginal():
    made, state, command = shield(), states(), commands()
    given = made.conditional(state, command[:, 0])
    torch.testing.assert_close(given.weights.sum(1), torch.ones(3).double())
    for row in range(3):
        weights, means, covs = gaussians(made, state[row : row + 1])
        horizon = norm.pdf(float(command[row, 0]), means[:, 0], np.sqrt(covs[:, 0, 0]))
        joint = float(made.log_prob(state[row : row + 1], command[row : row + 1]))
        expected = joint - math.log(weights @ horizon)
        assert float(given.log_prob(command[:, 1])[row]) == pytest.approx(expected, abs=1e-9)


@torch.no_grad()
def test_the_conditional_takes_one_horizon_for_all():
    made = shield()
    for a, b in zip(
        made.conditional(states(), 80.0),
        made.conditional(states(), torch.full((3,), 80.0).double()),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("level", [0.001, 0.05, 0.5, 0.9, 0.999])
def test_quantiles_invert_the_distribution(level):
    given = shield().conditional(states(), 100.0)
    found = given.quantile(level)
    torch.testing.assert_close(given.distribution(found), torch.full((3,), level).double())


def test_quantiles_of_one_component_are_the_normals():
    one = NormalMixture(*(torch.tensor([[v]], dtype=torch.float64) for v in (1.0, 3.0, 2.0)))
    assert float(one.quantile(0.975)) == pytest.approx(3 + 2 * norm.ppf(0.975))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
def test_a_quantile_needs_a_level(level):
    with pytest.raises(ConfigError, match="level above 0 and below 1"):
        shield().conditional(states(), 100.0).quantile(level)


# ------------------------------------------------------------------ achievability


@torch.no_grad()
def test_achievability_is_the_sum_of_scipys_probabilities():
    made = shield(horizon_noise=2.0)
    for state, command in itertools.product(states().split(1), commands(4).split(1)):
        horizon, ret = command[0].tolist()
        expected = 0.0
        for weight, mean, cov in zip(*gaussians(made, state), strict=True):
            flip = np.array([1.0, -1.0])  # at least R is at most -R
            expected += weight * multivariate_normal.cdf(
                [horizon + 1.0, -ret], mean * flip, cov * np.outer(flip, flip)
            )
        assert float(made.achievability(state, command)) == pytest.approx(expected, abs=1e-10)


@torch.no_grad()
def test_achievability_is_the_share_of_samples_that_do_it():
    made, state, command = shield(), states(), commands()
    torch.manual_seed(7)
    samples = made.sample(state, 40_000)
    enough = samples[..., 1] >= command[:, 1:]
    soon = samples[..., 0] <= command[:, :1] + 0.5  # the whole of the last step counts
    share = (enough & soon).double().mean(1)
    torch.testing.assert_close(made.achievability(state, command), share, rtol=0, atol=0.01)


@pytest.mark.parametrize("spread", [0.3, 1.5])  # the wide one has correlations near 1
@torch.no_grad()
def test_a_bolder_request_is_never_likelier(spread):
    made = shield(spread=spread)
    horizons, returns = torch.arange(-2400, 2600, 50.0), torch.arange(-4000, 4100, 81.0)
    grid = torch.cartesian_prod(horizons, returns).double()
    for state in states().split(1):
        found = made.achievability(state.expand(len(grid), 2), grid)
        assert found.min() >= 0.0 and found.max() <= 1.0
        found = found.view(len(horizons), len(returns))
        assert float(found.diff(dim=0).min()) > -1e-12
        assert float(found.diff(dim=1).max()) < 1e-12
        assert float(found.max() - found.min()) > 0.5


@torch.no_grad()
def test_achievability_of_limits():
    made, state = shield().float(), states().float()

    def at(horizon, ret):
        return made.achievability(state, torch.tensor([[horizon, ret]]).expand(3, 2))

    ones, zeros = torch.ones(3).double(), torch.zeros(3).double()
    torch.testing.assert_close(at(math.inf, -math.inf), ones)
    torch.testing.assert_close(at(1e9, -1e9), ones)
    for impossible in ((1e9, 1e9), (-1e9, -1e9), (100.0, math.inf), (-math.inf, 0.0)):
        torch.testing.assert_close(at(*impossible), zeros)
    assert bool(at(math.nan, 0.0).isnan().all())


@torch.no_grad()
def test_requests_beyond_double_precision_are_still_told_apart():
    made, state = shield(), states(1)
    horizons, returns = torch.arange(130, -7000, -40.0), torch.arange(100, 15_000, 80.0)
    for column, values in ((0, horizons), (1, returns)):
        requests = torch.tensor([MEAN]).repeat(len(values), 1).double()
        requests[:, column] = values
        log_p = made.log_achievabilities(state, requests.unsqueeze(0))[0]
        assert float(log_p[0]) > -5 and float(log_p[-1]) < -1000
        assert float(log_p.diff().max()) < 0.0
        torch.testing.assert_close(
            log_p.exp(), made.achievability(state.expand(len(values), 2), requests)
        )


@torch.no_grad()
def test_a_row_s_achievability_does_not_depend_on_the_batch():
    made, n = shield(n_components=2), 4200  # more than is computed at a time
    state, command = states(n), commands(n)
    whole = made.achievability(state, command)
    for row in (0, 17, 4095, 4096, 4199):
        alone = made.achievability(state[row : row + 1], command[row : row + 1])
        torch.testing.assert_close(whole[row : row + 1], alone, rtol=0, atol=1e-12)
    assert made.achievability(state[:0], command[:0]).shape == (0,)


# ------------------------------------------------------------------ refusals


def test_a_mixture_has_components():
    with pytest.raises(ConfigError, match="n_components of at least 1, got 0"):
        MixtureShield(2, n_components=0)


def test_one_component_is_a_gaussian():
    made = shield(n_components=1)
    (mean,), (cov,) = gaussians(made, states(1))[1:]
    expected = multivariate_normal.logpdf(commands(1)[0], mean, cov)
    found = float(made.log_prob(states(1), commands(1)).detach())
    assert found == pytest.approx(expected)


def test_wrong_shapes_are_refused():
    made = shield()
    for call in (made.log_prob, made.achievability):
        with pytest.raises(ShapeError, match="command: expected 3 rows"):
            call(states(), commands(2))
        with pytest.raises(ShapeError, match=r"state: expected shape \[batch, 2\], got \[2\]"):
            call(states()[0], commands())
    with pytest.raises(ShapeError, match="state: expected shape"):
        made.conditional(states()[0], 3.0)
    with pytest.raises(ShapeError, match="state: expected shape"):
        made.sample_with_log_prob(states()[0], 3)
