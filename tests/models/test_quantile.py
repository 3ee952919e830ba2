import pytest
import torch

from flowshield.errors import ConfigError, ShapeError
from flowshield.models import QuantileShield
from flowshield.models.shields.quantile import _LIKELIHOOD
from flowshield.models.shields.quantile_grid import inverse_distribution, log_density


def shield(seed=0, **options):
    """Random weights, standardizers that are not the identity."""
    torch.manual_seed(seed)
    made = QuantileShield(2, hidden_dim=16, n_layers=2, **options).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for network in (made.horizon_network, made.return_network):
        network[-1].bias.data[1:] -= 3.0  # grids about as wide as the data
    made.state_standardizer.std.copy_(torch.tensor([3.0, 0.5]))
    made.command_standardizer.mean.copy_(torch.tensor([120.0, 50.0]))
    made.command_standardizer.std.copy_(torch.tensor([60.0, 110.0]))
    return made


def states(n=3):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_quantiles", [2, 32])
def test_the_grids_rise_for_any_weights(n_quantiles):
    made = shield(n_quantiles=n_quantiles)
    s = 10 * states(500)
    grid = made._horizon_grid(s)
    assert grid.shape == (500, n_quantiles)
    assert bool((grid.diff(dim=1) > 0).all())
    assert bool((made._return_grid(s, grid[:, :1], grid).diff(dim=1) > 0).all())


def test_pinball_loss_by_hand_in_units_of_the_grids_width():
    made = shield(n_quantiles=2)
    low, high = made.levels.tolist()
    assert high == pytest.approx(1 - low)
    grid = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    expected = {
        4.0: (4 * low + 2 * high) / 2,
        1.0: (low + 1 - high) / 2,
        -1.0: ((1 - low) + 3 * (1 - high)) / 2,
    }
    for y, loss in expected.items():
        found = made._pinball(grid, torch.tensor([[y]], dtype=torch.float64))
        assert float(found) == pytest.approx(loss / 2)


def test_pinball_loss_is_least_at_the_quantiles():
    made = shield(n_quantiles=4)
    y = torch.randn(20_000, 1, dtype=torch.float64).exp()
    grid = y.quantile(made.levels, dim=0).T.clone().requires_grad_()
    loss = made._pinball(grid, y).mean()
    (slope,) = torch.autograd.grad(loss, grid)
    assert float(slope.abs().max()) < 1e-4
    width = grid.detach()[:, -1] - grid.detach()[:, 0]
    for i in range(4):
        for shift in (-0.05, 0.05):
            moved = grid.detach().clone()
            moved[0, i] += shift
            # the width is a unit, not a way to make the loss small
            found = made._pinball(moved, y).mean() * (moved[:, -1] - moved[:, 0]) / width
            assert float(found) > float(loss.detach())


def test_the_loss_does_not_depend_on_the_spread_of_a_state():
    made = shield(n_quantiles=4)
    grid = torch.tensor([[0.0, 1.0, 3.0, 4.0]], dtype=torch.float64)
    y = torch.tensor([[2.5]], dtype=torch.float64)
    torch.testing.assert_close(made._pinball(grid / 100, y / 100), made._pinball(grid, y))


def test_loss_of_a_batch_is_the_pinball_of_h_and_of_r_given_h_and_their_likelihood():
    made = shield(horizon_noise=0.0, return_noise=0.0)
    command = torch.tensor([[130.0, 20.0], [60.0, 160.0], [90.0, -80.0]], dtype=torch.float64)
    s, g = made.state_standardizer(states()), made.command_standardizer(command)
    horizon_grid = made._horizon_grid(s)
    return_grid = made._return_grid(s, g[:, :1], horizon_grid)
    expected = made._pinball(horizon_grid, g[:, :1]) + made._pinball(return_grid, g[:, 1:])
    log_prob = made.log_prob(states(), command) + made.command_standardizer.log_abs_det()
    expected = expected.mean() - _LIKELIHOOD * log_prob.mean()
    torch.testing.assert_close(made.compute_loss(states(), command), expected)


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
    marginal = log_density(made.levels, grid, ((horizon - 120.0) / 60.0).unsqueeze(1))
    marginal = marginal.exp() / 60.0
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
        grid = made._return_grid(
            s[row : row + 1].expand(5000, 2), g[row, :, :1], grid.expand(5000, -1)
        )
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
    return_grid = made._return_grid(s, h, made._horizon_grid(s))
    level = torch.full((3, 1), tau, dtype=torch.float64)
    expected = inverse_distribution(made.levels, return_grid, level) * 110.0 + 50.0
    torch.testing.assert_close(answer[:, 1:], expected)


def test_returns_are_predicted_from_state_and_horizon_alone():
    made = shield()
    g = torch.tensor([[[0.3, -5.0], [0.3, 9.0]]], dtype=torch.float64)
    grid, values = made._grids(states(1), g)
    assert values.squeeze(1).tolist() == [0.3, 0.3, -5.0, 9.0]
    assert torch.equal(grid[0], grid[1]) and torch.equal(grid[2], grid[3])
    assert made.return_network[0].in_features == made.state_dim + 2


def test_the_horizon_a_return_is_predicted_from_gets_no_gradient_from_it():
    made = shield()
    s, horizon = states(), torch.zeros(3, 1, dtype=torch.float64)
    made._return_grid(s, horizon, made._horizon_grid(s)).sum().backward()
    assert all(p.grad is None for p in made.horizon_network.parameters())


@torch.no_grad()
def test_several_commands_of_a_state_score_as_each_alone():
    made = shield()
    commands = 100 * torch.randn(3, 5, 2, dtype=torch.float64)
    alone = torch.stack([made.log_prob(states(), commands[:, i]) for i in range(5)], dim=1)
    torch.testing.assert_close(made.log_probs(states(), commands), alone)


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"tau": 1.0}, {"n_quantiles": 1}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="expected 0 < tau < 1 and n_quantiles >= 2"):
        QuantileShield(2, **options)


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"state: expected shape \[batch, 2\], got \[2\]"):
        shield().get_quantile(states()[0])
    with pytest.raises(ShapeError, match="command: expected 3 rows"):
        shield().log_prob(states(), torch.zeros(2, 2))
