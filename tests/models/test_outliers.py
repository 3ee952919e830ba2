"""Rewards of another size, from glitches or penalties, blind no shield, and are told."""

import functools

import pytest
import torch

from flowshield.errors import DataWarning
from flowshield.models import DiffusionShield, FlowMatchingShield, MixtureShield, QuantileShield
from flowshield.models.shields import ExchangeablePairs

TYPES = {
    "flow_matching": functools.partial(FlowMatchingShield, field_dim=32),
    "diffusion": functools.partial(DiffusionShield, field_dim=32),
    "quantile": QuantileShield,
    "mixture": MixtureShield,
}
SPOILS = {
    "glitches": lambda ret, hit: ret + 1e6 * (hit < 0.005),
    "rare penalty": lambda ret, hit: ret - 1000.0 * (hit < 0.03),
    "frequent penalty": lambda ret, hit: ret - 1000.0 * (hit < 0.15),
}


def chain(n, seed):
    """States, and commands of a process whose returns deviate by 5 sqrt(H) from 2 H s."""
    generator = torch.Generator().manual_seed(seed)
    state = 2 * torch.rand(n, 1, generator=generator) - 1
    horizon = torch.randint(1, 20, (n, 1), generator=generator).float()
    noise = torch.randn(n, 1, generator=generator)
    return state, torch.cat([horizon, 2 * horizon * state + 5 * horizon.sqrt() * noise], dim=1)


def spoiled(command, spoil, seed):
    hit = torch.rand(len(command), generator=torch.Generator().manual_seed(seed))
    return torch.stack([command[:, 0], spoil(command[:, 1], hit)], dim=1)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("what", SPOILS)
def test_returns_of_another_size_blind_no_shield(name, what):
    state, command = chain(6000, seed=0)
    command = spoiled(command, SPOILS[what], seed=1)
    torch.manual_seed(0)
    shield = TYPES[name](1, hidden_dim=48, n_layers=2)
    with pytest.warns(DataWarning, match="^return: .* of the values"):
        shield.fit_standardizers(state, command)
    adam = torch.optim.Adam(shield.parameters(), lr=5e-3)
    for step in range(500):
        rows = torch.randint(len(state), (256,))
        adam.param_groups[0]["lr"] = 5e-3 * (1 - step / 500)
        adam.zero_grad()
        shield.compute_loss(state[rows], command[rows]).backward()
        adam.step()
    shield.eval()
    held_state, held = chain(2000, seed=2)
    shield.calibrate(
        ExchangeablePairs(held_state.numpy(), spoiled(held, SPOILS[what], seed=3).numpy()), 0.05
    )
    test_state, test = chain(2000, seed=4)
    flagged = [
        float(shield.is_ood(test_state, test + torch.tensor([0.0, more])).float().mean())
        for more in (0.0, 120.0, 1000.0)
    ]
    # ordinary commands, and ones that are 5 deviations too high at least (most: 8 and more)
    assert flagged[0] < 0.1 and flagged[1] > 0.95 and flagged[2] == 1.0
