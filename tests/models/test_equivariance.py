"""What the user's units are does not matter, for any of the shields, from the first step on."""

import functools
import math

import pytest
import torch

from flowshield.models import DiffusionShield, FlowMatchingShield, MixtureShield, QuantileShield
from flowshield.models.shields import ExchangeablePairs

TYPES = {
    "flow_matching": functools.partial(FlowMatchingShield, field_dim=16),
    "diffusion": functools.partial(DiffusionShield, field_dim=16),
    "quantile": QuantileShield,
    "mixture": MixtureShield,
}


def data(n=400):
    torch.manual_seed(3)
    state = torch.randn(n, 3)
    horizon = torch.randint(1, 60, (n,)) + 10.0 * (state[:, 0] > 0)
    ret = 2 * horizon * state[:, 1] + 5 * torch.randn(n)
    return state, torch.stack([horizon, ret], dim=1)


def trained(name, state, command, horizon_noise=1.0, return_noise=1.0, n_steps=20):
    """The same seed and a few steps, whatever the units."""
    torch.manual_seed(0)
    noises = {"horizon_noise": horizon_noise, "return_noise": return_noise}
    shield = TYPES[name](3, hidden_dim=16, n_layers=2, **noises)
    shield.fit_standardizers(state, command)
    adam = torch.optim.Adam(shield.parameters(), lr=1e-2)
    for _ in range(n_steps):
        adam.zero_grad()
        shield.compute_loss(state, command).backward()
        adam.step()
    return shield.eval()


# powers of two lose no digits, so that the two trainings are the same to the last bit
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(("by_horizon", "by_return"), [(1, 8), (1, 1 / 64), (4, 1), (2, 16)])
@torch.no_grad()
def test_other_units_of_commands_shift_the_log_density(name, by_horizon, by_return):
    state, command = data()
    scale = torch.tensor([by_horizon, by_return])
    with torch.enable_grad():
        shield = trained(name, state, command)
        scaled = trained(name, state, command * scale, by_horizon, by_return)
    expected = shield.log_prob(state, command) - math.log(by_horizon) - math.log(by_return)
    torch.testing.assert_close(scaled.log_prob(state, command * scale), expected)
    draws = [
        s.sample_with_log_prob(state[:5], 3, torch.Generator().manual_seed(0))[0]
        for s in (shield, scaled)
    ]
    torch.testing.assert_close(draws[1], draws[0] * scale)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("decade", [-6, -3, 3, 6])
@torch.no_grad()
def test_the_derived_noise_follows_the_unit_of_rewards(name, decade):
    state, command = data()
    unit = torch.tensor([1.0, float(f"1e{decade}")])
    with torch.enable_grad():
        shield = trained(name, state, command, return_noise=None)
        scaled = trained(name, state, command * unit, return_noise=None)
    assert scaled.return_noise == pytest.approx(shield.return_noise * float(unit[1]))
    expected = shield.log_prob(state, command) - unit[1].log()
    # decimal units cost digits, and twenty steps of training spread them at a few commands
    off = (scaled.log_prob(state, command * unit) - expected).abs()
    assert float(off.quantile(0.8)) < 0.05


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("exponent", [-40, -20, 20, 40])
@torch.no_grad()
def test_states_of_any_size_are_told_apart(name, exponent):
    state, command = data()
    with torch.enable_grad():
        shield, scaled = (trained(name, s, command) for s in (state, state * 2.0**exponent))
    expected = shield.log_prob(state, command)
    torch.testing.assert_close(scaled.log_prob(state * 2.0**exponent, command), expected)


@pytest.mark.parametrize("name", TYPES)
@torch.no_grad()
def test_other_units_of_states_change_nothing(name):
    state, command = data()
    scale = torch.tensor([8.0, 1 / 32, 256.0])
    with torch.enable_grad():
        shield, scaled = (trained(name, s, command) for s in (state, state * scale))
    expected = shield.log_prob(state, command)
    torch.testing.assert_close(scaled.log_prob(state * scale, command), expected)


@pytest.mark.parametrize("name", TYPES)
@torch.no_grad()
def test_verdict_and_projection_do_not_depend_on_the_units(name):
    state, command = data()
    scale = torch.tensor([1.0, 8.0])
    with torch.enable_grad():
        shield, scaled = trained(name, state, command), trained(name, state, command * scale, 1, 8)
    shield.calibrate(ExchangeablePairs(state.numpy(), command.numpy()), 0.1)
    scaled.calibrate(ExchangeablePairs(state.numpy(), (command * scale).numpy()), 0.1)
    request = torch.tensor([[500.0, 900.0], [3.0, 400.0], [20.0, -700.0]])
    found = shield.project_in_detail(state[:3], request)
    other = scaled.project_in_detail(state[:3], request * scale)
    assert torch.equal(found.changed, other.changed) and bool(found.changed.any())
    torch.testing.assert_close(other.command, found.command * scale, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(other.distance, found.distance, rtol=1e-3, atol=1e-3)


def with_constant(command, constant):
    return command + constant * torch.stack([0 * command[:, 0], command[:, 0]], dim=1)


@pytest.mark.parametrize("name", TYPES)
@torch.no_grad()
def test_a_constant_in_every_reward_changes_nothing(name):
    """Returns differ by 6 at one horizon, and by thousands with their horizons."""
    state, command = data()
    command[:, 1] = 5 * state[:, 1] + 3 * torch.randn(400)
    found = {}
    for constant in (100.0, -256.0):
        commands = with_constant(command, constant)
        shield = trained(name, state, commands, return_noise=None, n_steps=0)
        shield.calibrate(ExchangeablePairs(state.numpy(), commands.numpy()), 0.1)
        asked = with_constant(command + torch.tensor([0.0, 40.0]), constant)
        generator = torch.Generator().manual_seed(0)
        sampled = shield.sample_with_log_prob(state[:9], 1, generator)[0][:, 0]
        torch.manual_seed(1)
        noisy = with_constant(shield.dequantize(commands), -constant)
        # what is nearest does change: a few more steps may bring what was asked for
        nearest = shield.project(state[:9], asked[:9])
        assert bool(shield.is_ood(state[:9], asked[:9]).any())
        assert not bool(shield.is_ood(state[:9], nearest).any())
        low, high = shield.supported_returns(state[:1], 20.0)[0][0]
        found[constant] = {
            "log_prob": shield.log_prob(state, commands),
            "sample": with_constant(sampled, -constant),
            "noisy": noisy,
            "noise": torch.tensor(shield.return_noise),
            "highest": shield.achievable(state[:9], [20.0]).returns - 20.0 * constant,
            "range": torch.tensor([low, high]) - 20.0 * constant,
        }
        if name == "mixture":
            law = shield.conditional(state[:9], 20.0)
            found[constant]["conditional"] = law.means - 20.0 * constant
    for what, one in found[100.0].items():
        torch.testing.assert_close(
            one, found[-256.0][what], rtol=2e-3, atol=0.05, msg=lambda m, what=what: what + m
        )


@pytest.mark.parametrize("name", TYPES)
def test_dequantized_commands_keep_their_mean_and_get_the_stated_noise(name):
    shield = TYPES[name](3, hidden_dim=4, horizon_noise=2.0, return_noise=3.0)
    torch.manual_seed(0)
    off = shield.dequantize(torch.tensor([[7.0, -20.0]]).expand(50_000, 2)) - torch.tensor(
        [7.0, -20.0]
    )
    assert float(off[:, 0].abs().max()) <= 1.0 + 1e-5  # uniform, of width 2, about 0
    assert off.std(0).tolist() == pytest.approx([2 / math.sqrt(12), 3.0], rel=0.02)
    assert off.mean(0).tolist() == pytest.approx([0.0, 0.0], abs=0.06)
