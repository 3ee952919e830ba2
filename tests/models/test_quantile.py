import pytest
import torch

from flowshield.errors import ConfigError, ShapeError
from flowshield.models import QuantileShield


def shield(seed=0, **options):
    """Random weights, standardizers that are not the identity."""
    torch.manual_seed(seed)
    made = QuantileShield(2, hidden_dim=16, n_layers=2, **options).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    made.state_standardizer.std.copy_(torch.tensor([3.0, 0.5]))
    made.command_standardizer.mean.copy_(torch.tensor([120.0, 50.0]))
    made.command_standardizer.std.copy_(torch.tensor([60.0, 110.0]))
    return made


def states(n=3):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def grids(n_quantiles=8):
    raw = 2 * torch.randn(4, n_quantiles, dtype=torch.float64)
    return raw.sort(dim=1).values + 0.01 * torch.arange(n_quantiles)


@pytest.mark.parametrize("n_quantiles", [2, 32])
def test_the_grids_rise_for_any_weights(n_quantiles):
    made = shield(n_quantiles=n_quantiles)
    s = 10 * states(500)
    grid = made._horizon_grid(s)
    assert grid.shape == (500, n_quantiles)
    assert bool((grid.diff(dim=1) > 0).all())
    assert bool((made._return_grid(s, grid[:, :1]).diff(dim=1) > 0).all())


def test_pinball_loss_by_hand():
    made = shield(n_quantiles=2)  # levels 1/4 and 3/4
    grid = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    for y, expected in ((2.0, (0.5 + 0.75) / 2), (0.5, 0.125), (-1.0, (0.75 + 0.5) / 2)):
        loss = made._pinball(grid, torch.tensor([[y]], dtype=torch.float64))
        assert float(loss) == pytest.approx(expected)


def test_pinball_loss_is_least_at_the_quantiles():
    made = shield(n_quantiles=4)
    y = torch.randn(20_000, 1, dtype=torch.float64).exp()
    grid = y.quantile(made.levels, dim=0).T.clone().requires_grad_()
    loss = made._pinball(grid, y)
    (slope,) = torch.autograd.grad(loss, grid)
    assert float(slope.abs().max()) < 1e-4
    for i in range(4):
        for shift in (-0.05, 0.05):
            moved = grid.detach().clone()
            moved[0, i] += shift
            assert float(made._pinball(moved, y)) > float(loss.detach())


def test_loss_of_a_batch_is_the_pinball_of_h_and_of_r_given_h():
    made = shield(horizon_noise=0.0, return_noise=0.0)
    command = torch.tensor([[130.0, 20.0], [60.0, 160.0], [90.0, -80.0]], dtype=torch.float64)
    s, g = made.state_standardizer(states()), made.command_standardizer(command)

    def pinball(grid, y):
        error = y - grid
        return torch.where(error > 0, made.levels * error, (made.levels - 1) * error).mean()

    expected = pinball(made._horizon_grid(s), g[:, :1])
    expected = expected + pinball(made._return_grid(s, g[:, :1]), g[:, 1:])
    torch.testing.assert_close(made.compute_loss(states(), command), expected)


def test_the_density_of_a_grid_integrates_to_1():
    made = shield(n_quantiles=8)
    grid = grids()
    y = torch.linspace(-80, 80, 800_001, dtype=torch.float64)
    for row in grid:
        density = made._log_density(row.expand(len(y), 8), y.unsqueeze(1)).exp()
        assert float(density.sum()) * 2e-4 == pytest.approx(1.0, abs=2e-3)


def test_each_level_lies_at_its_quantile():
    made = shield(n_quantiles=8)
    grid = grids()
    for k, level in enumerate(made.levels):
        found = made._inverse_distribution(grid, torch.full((4, 1), float(level)).double())
        torch.testing.assert_close(found, grid[:, k : k + 1])


def test_the_inverse_distribution_inverts_the_distribution():
    made = shield(n_quantiles=8)
    grid = grids()[:1]
    u = torch.tensor([0.001, 0.03, 0.0625, 0.2, 0.5, 0.77, 0.9375, 0.96, 0.999]).double()
    points = made._inverse_distribution(grid.expand(9, 8), u.unsqueeze(1)).squeeze(1)
    assert bool((points.diff() > 0).all())
    y = torch.linspace(-80, 80, 800_001, dtype=torch.float64)
    mass = 2e-4 * made._log_density(grid.expand(len(y), 8), y.unsqueeze(1)).exp().squeeze(1)
    below = mass.cumsum(0)[torch.searchsorted(y, points)]
    torch.testing.assert_close(below, u, rtol=0, atol=2e-3)


@torch.no_grad()
def test_log_prob_is_the_product_of_both_densities_in_raw_units():
    made, state = shield(), states(1)
    horizon = torch.linspace(-500, 900, 14_001, dtype=torch.float64)
    ret = torch.linspace(-1500, 1500, 15_001, dtype=torch.float64)

    def density(h, r):
        return made.log_prob(state.expand(len(h), 2), torch.stack([h, r], dim=1)).exp()

    # log p(H, R) - log p(R | H) does not depend on R, and integrates to 1 over H
    given = torch.full_like(ret, 140.0)
    over_returns = float(density(given, ret).sum()) * 0.2
    s = made.state_standardizer(state)
    grid = made._horizon_grid(s).expand(len(horizon), -1)
    marginal = made._log_density(grid, ((horizon - 120.0) / 60.0).unsqueeze(1)).exp() / 60.0
    assert float(marginal.sum()) * 0.1 == pytest.approx(1.0, abs=0.01)
    at = int((horizon - 140.0).abs().argmin())
    assert over_returns == pytest.approx(float(marginal[at]), rel=0.01)


@torch.no_grad()
def test_samples_come_with_their_own_log_prob_and_fill_the_levels_evenly():
    made = shield()
    samples, log_prob = made.sample_with_log_prob(states(), 5000)
    again = made.log_prob(states().repeat_interleave(5000, 0), samples.reshape(-1, 2))
    torch.testing.assert_close(log_prob.reshape(-1), again)
    s = made.state_standardizer(states())
    g = made.command_standardizer(samples)
    for row in range(3):
        grid = made._horizon_grid(s[row : row + 1])[0]
        shares = (g[row, :, :1] <= grid).double().mean(0)
        torch.testing.assert_close(shares, made.levels.double(), rtol=0, atol=0.025)
        grid = made._return_grid(s[row : row + 1].expand(5000, 2), g[row, :, :1])
        shares = (g[row, :, 1:] <= grid).double().mean(0)
        torch.testing.assert_close(shares, made.levels.double(), rtol=0, atol=0.025)


def test_one_generator_gives_every_state_the_same_levels():
    made = shield()
    draws = [
        made.sample_with_log_prob(rows, 4, torch.Generator().manual_seed(7))[0]
        for rows in (states(), states(), states()[1:2])
    ]
    assert torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws[2][0], draws[0][1])


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
@torch.no_grad()
def test_get_quantile_answers_at_its_level(tau):
    made = shield(tau=tau)
    answer = made.get_quantile(states())
    samples = made.sample(states(), 20_000)
    shares = (samples[..., 0] <= answer[:, :1]).double().mean(1)
    torch.testing.assert_close(shares, torch.full((3,), tau).double(), rtol=0, atol=0.015)
    # the return's quantile is that at the median horizon
    median = shield(tau=0.5).get_quantile(states())[:, :1]
    s, h = made.state_standardizer(states()), (median - 120.0) / 60.0
    level = torch.full((3, 1), tau, dtype=torch.float64)
    expected = made._inverse_distribution(made._return_grid(s, h), level) * 110.0 + 50.0
    torch.testing.assert_close(answer[:, 1:], expected)


def test_returns_are_predicted_from_state_and_horizon_alone():
    made = shield()
    g = torch.tensor([[0.3, -5.0], [0.3, 9.0]], dtype=torch.float64)
    grid = made._return_grid(states(1).expand(2, 2), g[:, :1])
    assert torch.equal(grid[0], grid[1])
    assert made.return_network.first.in_features == made.state_dim + 1


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"tau": 1.0}, {"n_quantiles": 1}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="expected 0 < tau < 1 and n_quantiles >= 2"):
        QuantileShield(2, **options)


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"state: expected shape \[batch, 2\], got \[2\]"):
        shield().get_quantile(states()[0])
    with pytest.raises(ShapeError, match="command: expected 3 rows"):
        shield().log_prob(states(), torch.zeros(2, 2))
