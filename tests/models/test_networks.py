import math

import pytest
import torch
from torch.nn import functional

from flowshield.errors import ConfigError
from flowshield.models.networks import (
    PlainMLP,
    ResidualMLP,
    SinusoidalEmbedding,
    activation,
)


def test_the_network_is_the_sum_of_its_residual_layers():
    torch.manual_seed(0)
    network, x = ResidualMLP(4, 2, 8, n_layers=3, activation_name="tanh"), torch.randn(5, 4)
    h = torch.tanh(network.first(x))
    for layer in network.hidden:
        h = h + torch.tanh(layer(h))
    assert len(network.hidden) == 2
    torch.testing.assert_close(network(x), network.last(h))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    network, x = ResidualMLP(4, 2, 32, dropout=0.5), torch.randn(5, 4)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("name", ["silu", "relu", "gelu", "tanh", "elu"])
def test_activations_are_torchs(name):
    x = torch.linspace(-3, 3, 50)
    theirs = torch.tanh if name == "tanh" else getattr(functional, name)
    assert torch.equal(activation(name)(x), theirs(x))


def test_an_unknown_activation_lists_the_near_ones():
    with pytest.raises(ConfigError, match="unknown activation 'sliu': did you mean 'silu'"):
        ResidualMLP(1, 1, activation_name="sliu")


def test_sinusoidal_embedding_of_time():
    embed = SinusoidalEmbedding(6, max_frequency=16.0)
    t = torch.tensor([0.0, 0.3, 1.0])
    frequencies = [1.0, 4.0, 16.0]
    expected = [
        [math.sin(w * u) for w in frequencies] + [math.cos(w * u) for w in frequencies]
        for u in (0.0, 0.3, 1.0)
    ]
    torch.testing.assert_close(embed(t), torch.tensor(expected), rtol=0, atol=1e-5)
    assert embed(torch.tensor(0.5)).shape == (6,)


def test_a_plain_mlp_is_its_layers_one_after_the_other():
    network, x = PlainMLP(4, 2, 8, n_layers=2).eval(), torch.randn(5, 4)
    first, second, last = (layer for layer in network if isinstance(layer, torch.nn.Linear))
    silu = torch.nn.functional.silu
    torch.testing.assert_close(network(x), last(silu(second(silu(first(x))))))


def test_a_plain_mlp_drops_units_in_training_alone():
    network, x = PlainMLP(4, 2, 32, dropout=0.5), torch.randn(5, 4)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
