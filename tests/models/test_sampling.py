import pytest
import torch

from flowshield.errors import ConfigError
from flowshield.models import DiffusionShield, FlowMatchingShield, MixtureShield, QuantileShield

SHIELDS = [QuantileShield, MixtureShield, DiffusionShield, FlowMatchingShield]


@pytest.mark.parametrize("make", SHIELDS)
def test_states_that_are_equal_get_samples_of_their_own(make):
    samples = make(3, hidden_dim=16).sample(torch.zeros(6, 3), 4).reshape(24, 2)
    assert len(torch.unique(samples, dim=0)) == 24


@pytest.mark.parametrize("make", SHIELDS)
def test_a_seeded_generator_gives_every_state_the_same_noise(make):
    shield = make(3, hidden_dim=16)
    samples, _ = shield.sample_with_log_prob(torch.zeros(6, 3), 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples, samples[:1].expand(6, -1, -1))
    assert len(torch.unique(samples[0], dim=0)) == 4


@pytest.mark.parametrize("make", SHIELDS)
def test_a_command_is_a_pair(make):
    with pytest.raises(ConfigError, match="command_dim=2"):
        make(3, command_dim=3)
