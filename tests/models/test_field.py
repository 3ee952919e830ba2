import math

import pytest
import torch

from flowshield.models.shields.field import CommandField

STATE_DIM, BATCH = 3, 6


def random_field(n_layers=2):
    torch.manual_seed(1)
    field = CommandField(STATE_DIM, 2, 16, 12, n_layers, 8, n_components=3).double()
    for parameter in field.parameters():  # the last layer starts at zero: nothing to see there
        torch.nn.init.normal_(parameter, std=0.4)
    return field


def random_rows(n=BATCH, dim=2, seed=0):
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def angles(shape):
    return (
        torch.tensor(0.3, dtype=torch.float64)
        if shape == "one"
        else torch.linspace(0, math.pi / 2, BATCH, dtype=torch.float64)
    )


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("shape", ["one", "each"])
def test_divergence_is_the_exact_trace(n_layers, shape):
    field = random_field(n_layers)
    features = field.encode(random_rows(BATCH, STATE_DIM, seed=2)).features.detach()
    x, bias = random_rows() * 2, (features + field.time_bias(angles(shape))).detach()
    velocity, divergence = field.with_divergence(x, bias)
    torch.testing.assert_close(velocity, field(x, bias), rtol=0, atol=1e-12)
    # the sum over rows has the row's own gradient: rows do not mix
    jacobian = torch.autograd.functional.jacobian(lambda y: field(y, bias).sum(0), x)
    trace = torch.einsum("ibi->b", jacobian)
    assert float(trace.abs().median()) > 1e-3  # or there is nothing to compare
    torch.testing.assert_close(divergence, trace, rtol=0, atol=1e-10)


def test_gradients_flow_through_the_divergence():
    field = random_field()
    features = field.encode(random_rows(BATCH, STATE_DIM)).features.detach()
    bias = (features + field.time_bias(angles("one"))).detach()

    def divergence(x):
        return field.with_divergence(x, bias)[1]

    assert torch.autograd.gradcheck(divergence, random_rows().requires_grad_())


def test_a_new_field_does_nothing():
    field = CommandField(STATE_DIM, 2, 16, 12, 2, 8, n_components=3)
    features = field.encode(torch.randn(BATCH, STATE_DIM)).features
    bias = features + field.time_bias(torch.tensor(0.5))
    velocity, divergence = field.with_divergence(torch.randn(BATCH, 2), bias)
    assert torch.equal(velocity, torch.zeros(BATCH, 2))
    assert torch.equal(divergence, torch.zeros(BATCH))


def test_angle_and_state_steer_the_velocity():
    field = random_field()
    x, state = random_rows(), random_rows(BATCH, STATE_DIM, seed=3)
    features = field.encode(state).features
    early, late = (field.time_bias(torch.tensor(t, dtype=x.dtype)) for t in (0.1, 1.4))
    here = field(x, features + early)
    assert bool(((here - field(x, features + late)).abs() > 1e-4).all())
    elsewhere = field(x, field.encode(state + 1).features + early)
    assert bool(((here - elsewhere).abs() > 1e-4).all())


def test_encode_gives_features_and_a_mixture():
    context = random_field(n_layers=2).encode(random_rows(BATCH, STATE_DIM))
    assert context.features.shape == (BATCH, 3 * 12)
    assert context.mixture.shape == (BATCH, 6 * 3)
