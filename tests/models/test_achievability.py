"""P(R' >= R, H' <= H | s) and the frontier: laws, known answers, and what it costs to be rare."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from flowshield.errors import DataError, NotCalibratedError, ShapeError
from flowshield.models import (
    BaseShield,
    DiffusionShield,
    FlowMatchingShield,
    MixtureShield,
    QuantileShield,
)
from flowshield.models.shields import ExchangeablePairs
from flowshield.models.shields.achievability import log_achievability_by_samples
from flowshield.models.standardizer import CommandStandardizer

SMALL = {
    "flow_matching": functools.partial(FlowMatchingShield, field_dim=8, n_layers=1, n_steps=4),
    "diffusion": functools.partial(DiffusionShield, field_dim=8, n_layers=1, n_steps=4),
    "mixture": functools.partial(MixtureShield, n_components=3, n_layers=1),
    "quantile": functools.partial(QuantileShield, n_layers=1),
}


class NormalShield(BaseShield):
    """H ~ N(100, 10^2) and R ~ N(state, 20^2), independent."""

    mean_h, std_h, std_r = 100.0, 10.0, 20.0

    def compute_loss(self, state, command):
        return -self.log_prob(state, command).mean()

    def log_prob(self, state, command, n_steps=None):
        horizon = torch.distributions.Normal(self.mean_h, self.std_h).log_prob(command[:, 0])
        return horizon + torch.distributions.Normal(state[:, 0], self.std_r).log_prob(command[:, 1])

    def sample_with_log_prob(self, state, n_samples, generator=None):
        rows = len(state) if generator is None else 1
        noise = torch.randn(rows, n_samples, 2, generator=generator).expand(len(state), -1, -1)
        horizon = self.mean_h + self.std_h * noise[..., 0]
        samples = torch.stack([horizon, state[:, :1] + self.std_r * noise[..., 1]], dim=2)
        return samples, self.log_probs(state, samples)


def normal_shield(score="density"):
    shield = NormalShield(1, horizon_noise=0.0)
    shield.command_standardizer.std.copy_(torch.tensor([10.0, 20.0]))
    shield.score_type = score
    states = torch.randn(400, 1) * 50
    commands = shield.sample(states)[:, 0]
    shield.calibrate(ExchangeablePairs(states.numpy(), commands.numpy()), 0.1)
    return shield


def exact(state, command):
    unit = torch.distributions.Normal(0.0, 1.0)
    late = unit.cdf((command[:, 0] - 100.0) / 10.0)
    return late * unit.cdf((state[:, 0] - command[:, 1]) / 20.0)


def random_shield(name):
    torch.manual_seed(2)
    shield = SMALL[name](3, hidden_dim=16).eval()
    for parameter in shield.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shield.command_standardizer.mean.copy_(torch.tensor([200.0, 50.0]))
    shield.command_standardizer.std.copy_(torch.tensor([60.0, 110.0]))
    return shield


@pytest.mark.parametrize("name", SMALL)
def test_it_falls_with_the_return_and_rises_with_the_horizon(name):
    shield = random_shield(name)
    state = torch.randn(4, 3)
    returns = torch.linspace(-900, 900, 61)
    horizons = torch.linspace(1, 700, 61)
    by_return = torch.stack([torch.full_like(returns, 200.0), returns], dim=1).expand(4, -1, -1)
    by_horizon = torch.stack([horizons, torch.full_like(returns, 50.0)], dim=1).expand(4, -1, -1)
    falling, rising = (
        shield.scores(state, by_return, "achievability"),
        shield.scores(state, by_horizon, "achievability"),
    )
    assert bool((falling.diff(dim=1) <= 1e-9).all()) and bool((rising.diff(dim=1) >= -1e-9).all())
    # beyond the last sample it goes on telling requests apart
    assert bool((falling[:, -10:].diff(dim=1) < 0).all()) and bool(falling.isfinite().all())
    p = shield.achievability(state, by_return[:, 30])
    assert bool(((p >= 0) & (p <= 1)).all())


@pytest.mark.parametrize("name", SMALL)
def test_it_is_the_share_of_samples_that_do_it(name):
    shield, state = random_shield(name), torch.randn(3, 3)
    torch.manual_seed(0)
    samples = shield.sample(state, 20_000)
    for quantile in (0.2, 0.5, 0.8):
        command = samples.quantile(quantile, dim=1)
        latest = command[:, 0] + 0.5 * shield.horizon_noise
        hits = (samples[..., 0] <= latest[:, None]) & (samples[..., 1] >= command[:, 1:])
        found = shield.achievability(state, command).float()
        # 256 samples: a deviation of at most 0.03
        torch.testing.assert_close(found, hits.float().mean(dim=1), rtol=0, atol=0.08)


@pytest.mark.parametrize("name", SMALL)
def test_a_row_has_its_answer_whatever_the_batch(name):
    shield, state = random_shield(name), torch.randn(5, 3)
    command = shield.sample(state)[:, 0]
    whole = shield.achievability(state, command)
    alone = torch.cat(
        [shield.achievability(state[i : i + 1], command[i : i + 1]) for i in range(5)]
    )
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-6)
    assert torch.equal(whole, shield.achievability(state, command))


@pytest.mark.parametrize("name", SMALL)
def test_a_reward_per_step_is_in_the_returns_of_whole_horizons(name):
    shield, state = random_shield(name), torch.randn(3, 3)
    unit = shield.command_standardizer
    torch.manual_seed(0)
    rest = shield.sample(state, 20_000)  # what is left of returns, before there is a constant
    unit.reward_per_step.fill_(-100.0)
    unit.sheared = True
    horizons = rest[..., 0].round().clamp(min=1.0)
    returns = rest[..., 1] - 100.0 * horizons
    for quantile in (0.2, 0.5, 0.8):
        steps = horizons.quantile(quantile, dim=1)
        asked = -100.0 * steps + rest[..., 1].quantile(0.5, dim=1)  # half of those at that horizon
        hits = (horizons <= steps[:, None]) & (returns >= asked[:, None])
        found = shield.achievability(state, torch.stack([steps, asked], dim=1)).float()
        torch.testing.assert_close(found, hits.float().mean(dim=1), rtol=0, atol=0.08)


def test_by_samples_it_is_near_the_truth():
    shield = normal_shield()
    state = torch.zeros(400, 1)
    torch.manual_seed(1)
    command = torch.tensor([100.0, 0.0]) + torch.randn(400, 2) * torch.tensor([15.0, 30.0])
    error = shield.achievability(state, command).float() - exact(state, command)
    assert float(error.abs().max()) < 0.08 and float(error.square().mean().sqrt()) < 0.035
    with pytest.raises(ShapeError):
        shield.achievability(state, command[:3])


def test_samples_that_coincide_make_no_step():
    samples = torch.tensor([[50.0, 7.0]]).expand(1, 64, -1)
    commands = torch.tensor([[[60.0, 7.0 + d] for d in (-0.02, -0.01, 0.0, 0.01, 0.02)]])
    unit = CommandStandardizer()
    unit.std.fill_(10.0)
    found = log_achievability_by_samples(samples, commands, unit)
    assert bool((found.diff(dim=1) < 0).all())
    assert float(found[0, 2]) == pytest.approx(math.log(0.5))


def test_a_modest_request_is_rare_and_no_alarm():
    state, modest = torch.zeros(1, 1), torch.tensor([[300.0, -200.0]])
    greedy = torch.tensor([[70.0, 70.0]])
    by_density, by_chance = normal_shield("density"), normal_shield("achievability")
    assert by_density.is_ood(state, modest).all() and by_density.is_ood(state, greedy).all()
    assert not by_chance.is_ood(state, modest).any() and by_chance.is_ood(state, greedy).all()


def test_the_achievability_keeps_its_own_rate():
    torch.manual_seed(0)
    shield, states = normal_shield("achievability"), torch.randn(4000, 1) * 50
    rate = float(shield.is_ood(states, shield.sample(states)[:, 0]).float().mean())
    assert rate == pytest.approx(0.1, abs=0.05)  # 400 scores: one deviation is 0.015
    assert float(shield.threshold) < 0


def test_projection_by_achievability_lands_on_its_edge():
    shield = normal_shield("achievability")
    shield.projection = shield.projection._replace(typicality=0.0)
    state, request = torch.zeros(1, 1), torch.tensor([[110.0, 90.0]])
    found = shield.project_in_detail(state, request)
    assert found.supported.all() and not shield.is_ood(state, found.command).any()
    assert float(found.score - shield.threshold) < 0.1
    assert torch.equal(shield.project(state, found.command), found.command)


# ---------------------------------------------------------------- the frontier


def test_the_density_frontier_is_the_ellipse():
    shield = normal_shield()
    state, level = torch.tensor([[0.0], [35.0]]), -7.5
    frontier = shield.achievable(state, [60.0, 100.0, 110.0], level=level, tolerance=0.01)
    # log p = peak - z_h^2 / 2 - z_r^2 / 2
    room = -math.log(2 * math.pi * 200) - level
    for i, horizon in enumerate((60.0, 100.0, 110.0)):
        left = 2 * room - ((horizon - 100) / 10) ** 2
        expected = 20 * math.sqrt(left) if left > 0 else -math.inf
        found = frontier.returns[:, i] - state[:, 0]
        np.testing.assert_allclose(found.numpy(), [expected] * 2, atol=0.02)


@pytest.mark.parametrize("name", ["mixture", "quantile", "flow_matching"])
def test_the_achievability_frontier_rises_with_the_horizon_and_is_exact(name):
    shield, state = random_shield(name), torch.randn(3, 3)
    frontier = shield.achievable(state, level=0.1, score_type="achievability", tolerance=0.5)
    assert frontier.returns.shape == (3, len(frontier.horizons)) and frontier.horizons[0] == 1
    assert bool((frontier.returns[:, 1:] >= frontier.returns[:, :-1] - 0.5).all())
    some = frontier.returns.isfinite()
    assert some.any()
    steps = frontier.horizons.expand(3, -1)
    for offset, supported in ((0.0, True), (0.5, False)):
        commands = torch.stack([steps, frontier.returns + offset], dim=2)
        reached = shield.scores(state, commands, "achievability") >= math.log(0.1)
        assert bool((reached[some] == supported).all())


def two_hills(far=0.01):
    """H ~ N(100, 10^2); R ~ N(0, 20^2), or, with probability `far`, N(1000, 20^2)."""
    shield = MixtureShield(1, hidden_dim=4, n_layers=1, n_components=2).eval()
    std = torch.tensor([10.0, 20.0])
    shield.command_standardizer.std.copy_(std)
    raw = (1 - torch.tensor([0.25, 1.0]) / std).expm1().log()  # the inverse of softplus
    logits = [math.log(far), math.log(1 - far)] if far else [-1e8, 0.0]
    with torch.no_grad():
        shield.network.last.weight.zero_()
        shield.network.last.bias.copy_(
            torch.tensor([*logits, 10.0, 10.0, 50.0, 0.0, raw[0], raw[0], raw[1], raw[1], 0.0, 0.0])
        )
    return shield


@pytest.mark.parametrize("far", [0.001, 0.01, 0.3])
def test_an_achievability_frontier_misses_no_small_share(far):
    shield, level = two_hills(far), far / 2
    frontier = shield.achievable(
        torch.zeros(1, 1), [400.0], level=level, score_type="achievability", tolerance=0.01
    )
    # half of the far hill lies above its top
    assert float(frontier.returns) == pytest.approx(1000.0, abs=0.05)


@pytest.mark.parametrize("level", [1e-12, 0.005, 0.5, 0.999, 1 - 1e-6])
def test_an_achievability_frontier_is_the_quantile_however_rare(level):
    frontier = two_hills(far=0.0).achievable(
        torch.zeros(1, 1), [400.0], level=level, score_type="achievability", tolerance=0.01
    )
    assert float(frontier.returns) == pytest.approx(20 * norm.isf(level), abs=0.05)


def test_an_achievability_frontier_goes_far_beyond_the_samples():
    class Exact(NormalShield):
        def log_achievabilities(self, state, commands):
            return torch.special.log_ndtr((state - commands[..., 1]) / self.std_r)

    frontier = Exact(1).achievable(
        torch.zeros(1, 1), [400.0], level=1e-300, score_type="achievability", tolerance=0.01
    )
    assert float(frontier.returns) == pytest.approx(20 * norm.isf(1e-300), abs=0.05)


def test_where_the_horizon_is_just_likely_enough_the_frontier_is_low_and_else_there_is_none():
    shield, state = two_hills(far=0.0), torch.zeros(1, 1)
    late = norm.cdf(0.05)  # of H = 100, which ends at 100.5
    some, none = (
        shield.achievable(
            state, [100.0], level=late * share, score_type="achievability", tolerance=0.01
        )
        for share in (1 - 1e-3, 1 + 1e-3)
    )
    assert float(some.returns) == pytest.approx(20 * norm.isf(1 - 1e-3), abs=0.2)
    assert float(none.returns) == -math.inf


def test_a_density_frontier_misses_nothing_that_the_samples_show():
    shield, state = two_hills(), torch.zeros(1, 1)
    top = math.log(0.01 / (2 * math.pi * 200))
    frontier = shield.achievable(state, [100.0], level=-13.0, tolerance=0.01)
    assert float(frontier.returns) == pytest.approx(1000 + 20 * math.sqrt(2 * (top + 13)), abs=0.05)
    horizons = torch.linspace(70, 130, 9)
    frontier = shield.achievable(state, horizons, level=-16.0, tolerance=0.01)
    returns = shield.common_samples(state, 256)[0][..., 1]
    commands = torch.cartesian_prod(horizons, returns[0])
    supported = (shield.scores(state, commands.unsqueeze(0)) >= -16.0).view(9, -1)
    highest = torch.where(supported, returns, -math.inf).amax(dim=1)
    assert bool((frontier.returns[0] >= highest).all()) and bool(highest.isfinite().any())


@pytest.mark.parametrize("level", [-1e3, -1e6])
def test_a_density_frontier_goes_as_far_as_the_support(level):
    shield = two_hills(far=0.0)
    frontier = shield.achievable(torch.zeros(1, 1), [100.0], level=level, tolerance=0.01)
    expected = 20 * math.sqrt(2 * (-math.log(2 * math.pi * 200) - level))
    assert float(frontier.returns) == pytest.approx(expected, rel=1e-5)


def test_a_density_frontier_below_all_samples_is_found():
    # at H = 400 a slope of -10 a step has taken the returns far below
    shield = two_hills(far=0.0)
    with torch.no_grad():
        shield.network.last.bias[-2:] = -5.0  # standardized R for each deviation of H
    top = float(shield.score(torch.zeros(1, 1), torch.tensor([[400.0, -3000.0]])))
    frontier = shield.achievable(torch.zeros(1, 1), [400.0], level=top - 1000, tolerance=0.01)
    expected = -3000 + 20 * math.sqrt(2 * 1000)
    assert float(frontier.returns) == pytest.approx(expected, abs=0.05)
    assert float(shield.common_samples(torch.zeros(1, 1), 256)[0][..., 1].amin()) > expected + 1000


def test_a_frontier_without_end_is_infinite():
    class Flat(NormalShield):
        def log_prob(self, state, command, n_steps=None):
            return torch.zeros(len(command))

    frontier = Flat(1).achievable(torch.zeros(2, 1), [9.0], level=-1.0)
    assert frontier.returns.tolist() == [[math.inf], [math.inf]]


def test_a_frontier_is_the_same_in_parts(monkeypatch):
    shield, state = random_shield("mixture"), torch.randn(5, 3)
    whole = shield.achievable(state, level=-12.0)
    monkeypatch.setattr("flowshield.models.shields.frontier._AT_A_TIME", 1)
    parts = shield.achievable(state, level=-12.0)
    torch.testing.assert_close(whole.returns, parts.returns, rtol=0, atol=0.1)


def test_the_frontier_respects_the_bound_and_the_calibration():
    shield, state = normal_shield(), torch.zeros(2, 1)
    free = shield.achievable(state, [100.0], tolerance=0.01).returns
    edge = torch.tensor([[100.0, float(free[0, 0])]])
    assert not shield.is_ood(state[:1], edge).any()
    assert shield.is_ood(state[:1], edge + torch.tensor([[0.0, 0.02]])).all()
    shield.return_bound = lambda states: torch.full((len(states),), 12.0)
    bounded = shield.achievable(state, [100.0], tolerance=0.01).returns
    assert float(bounded.max()) <= 12.0 and float(bounded.min()) > 11.98
    with pytest.raises(NotCalibratedError, match="give a level for 'achievability'"):
        shield.achievable(state, score_type="achievability")
    with pytest.raises(DataError, match=r"level: expected a probability in \(0, 1\), got 3"):
        shield.achievable(state, score_type="achievability", level=3.0)


def test_no_projection_passes_the_bound():
    shield = normal_shield()
    shield.return_bound = lambda states: states[:, 0] + 5.0
    torch.manual_seed(0)
    state = torch.randn(40, 1) * 50
    request = torch.stack([torch.full((40,), 100.0), state[:, 0] + 6.0], dim=1)
    found = shield.project_in_detail(state, request)
    assert found.changed.all() and found.supported.all()
    assert bool((found.command[:, 1] <= state[:, 0] + 5.0).all())
    assert float(found.distance.mean()) < 0.1  # the bound is 0.05 away
