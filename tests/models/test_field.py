import math

import pytest
import torch

from flowshield.models.shields.field import CommandField, StateContext

STATE_DIM, BATCH = 3, 6


def random_field(n_fourier=0, n_layers=2):
    torch.manual_seed(1)
    field = CommandField(STATE_DIM, 2, 16, 12, n_layers, 8, n_fourier).double()
    for parameter in field.parameters():  # the last layer starts at zero: nothing to see there
        torch.nn.init.normal_(parameter, std=0.4)
    return field


def random_rows(n=BATCH, dim=2, seed=0):
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_context(n=BATCH):
    return random_field().encode(random_rows(n, STATE_DIM, seed=5))


def times(shape):
    return (
        torch.tensor(0.3, dtype=torch.float64)
        if shape == "one"
        else torch.linspace(0, 1, BATCH, dtype=torch.float64)
    )


@pytest.mark.parametrize("n_fourier", [0, 5])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("shape", ["one", "each"])
def test_divergence_is_the_exact_trace(n_fourier, n_layers, shape):
    field = random_field(n_fourier, n_layers)
    features = field.encode(random_rows(BATCH, STATE_DIM, seed=2)).features.detach()
    x, t = random_rows() * 2, times(shape)
    velocity, divergence = field.with_divergence(x, t, features)
    torch.testing.assert_close(velocity, field(x, t, features), rtol=0, atol=1e-12)
    # the sum over rows has the row's own gradient: rows do not mix
    jacobian = torch.autograd.functional.jacobian(lambda y: field(y, t, features).sum(0), x)
    trace = torch.einsum("ibi->b", jacobian)
    assert float(trace.abs().min()) > 1e-3  # or there is nothing to compare
    torch.testing.assert_close(divergence, trace, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_fourier", [0, 5])
def test_gradients_flow_through_the_divergence(n_fourier):
    field = random_field(n_fourier)
    features = field.encode(random_rows(BATCH, STATE_DIM)).features.detach()
    t = times("one")

    def divergence(x):
        return field.with_divergence(x, t, features)[1]

    assert torch.autograd.gradcheck(divergence, random_rows().requires_grad_())


def test_a_new_field_does_nothing():
    field = CommandField(STATE_DIM, 2, 16, 12, 2, 8)
    features = field.encode(torch.randn(BATCH, STATE_DIM)).features
    velocity, divergence = field.with_divergence(torch.randn(BATCH, 2), torch.tensor(0.5), features)
    assert torch.equal(velocity, torch.zeros(BATCH, 2))
    assert torch.equal(divergence, torch.zeros(BATCH))


def test_time_and_state_steer_the_velocity():
    field = random_field()
    x, state = random_rows(), random_rows(BATCH, STATE_DIM, seed=3)
    features = field.encode(state).features
    early, late = (field(x, torch.tensor(t, dtype=x.dtype), features) for t in (0.1, 0.9))
    assert bool(((early - late).abs() > 1e-4).all())
    elsewhere = field(x, torch.tensor(0.1, dtype=x.dtype), field.encode(state + 1).features)
    assert bool(((early - elsewhere).abs() > 1e-4).all())


def test_unwhiten_inverts_whiten():
    context, g = random_context(), random_rows(seed=7)
    torch.testing.assert_close(context.unwhiten(context.whiten(g)), g)
    torch.testing.assert_close(context.whiten(context.unwhiten(g)), g)
    assert torch.equal(context.unwhiten(torch.zeros_like(g)), context.location)


def test_log_abs_det_is_that_of_unwhiten():
    context, z = random_context(), random_rows(seed=7)
    jacobian = torch.autograd.functional.jacobian(lambda y: context.unwhiten(y).sum(0), z)
    _, expected = torch.linalg.slogdet(jacobian.transpose(0, 1))
    torch.testing.assert_close(context.log_abs_det(), expected)


def test_whitening_makes_a_correlated_gaussian_standard():
    # L = diag(2, 0.5) [[1, 0], [0.6, 1]]: whitened by a triangular solve
    scale = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    shear, location = torch.tensor([0.6]).double(), torch.tensor([[1.0, -1.0]]).double()
    context = StateContext(torch.empty(1, 0), location, scale.log(), shear)
    triangle = torch.tensor([[2.0, 0.0], [0.6 * 0.5, 0.5]], dtype=torch.float64)
    g = random_rows()
    expected = torch.linalg.solve_triangular(triangle, (g - location).T, upper=False).T
    rows = context.repeat(BATCH)
    torch.testing.assert_close(rows.whiten(g), expected)
    torch.testing.assert_close(rows.log_abs_det(), torch.full((BATCH,), math.log(1.0)).double())


def test_repeat_keeps_the_rows_of_a_state_together():
    context = random_context(2)
    repeated = context.repeat(3)
    for part, many in zip(context, repeated, strict=True):
        assert torch.equal(many, part[[0, 0, 0, 1, 1, 1]])


def test_the_scale_stays_in_its_range():
    field = random_field()
    context = field.encode(1e3 * random_rows(200, STATE_DIM))
    scale = context.log_scale.exp().detach()
    assert 1e-3 < float(scale.min()) < float(scale.max()) < 10.0
