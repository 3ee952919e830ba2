import math

import pytest
import torch

from flowshield.errors import ConfigError
from flowshield.models import ode

FIXED = ("euler", "midpoint", "rk4")
ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4}


def points(n=7, dim=2, seed=0):
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear_field(a):
    """V = a(t) x; its divergence in two dimensions is 2 a(t)."""

    def field(t, x):
        return a(t) * x, torch.full_like(x[:, 0], x.shape[1] * a(t))

    return field


def matrix_field(matrix):
    def field(t, x):
        return x @ matrix.T, torch.full_like(x[:, 0], float(matrix.trace()))

    return field


def normal(x):
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    return torch.distributions.MultivariateNormal(x.new_zeros(x.shape[1]), identity).log_prob(x)


def gradient(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def assert_density(found, expected, x, tolerance=1e-6):
    """The log-density and its gradient in x, both against the closed form."""
    torch.testing.assert_close(found(x), expected(x), rtol=0, atol=tolerance)
    gradients = gradient(found, x), gradient(expected, x)
    torch.testing.assert_close(*gradients, rtol=0, atol=tolerance)


def test_standard_normal_agrees_with_torch():
    for dim in (1, 2, 3):
        x = points(dim=dim)
        torch.testing.assert_close(ode.standard_normal_log_density(x), normal(x))


@pytest.mark.parametrize("a", [-1.3, -0.2, 0.7, 1.5])
@pytest.mark.parametrize(("solver", "n_steps"), [("rk4", 64), ("dopri5", 8)])
def test_log_density_of_a_linear_field(a, solver, n_steps):
    # an expanding field (a > 0) spreads the noise out: the density at 0 must fall by exactly 2a
    def found(x):
        return ode.log_density(
            linear_field(lambda t: a), x, solver=solver, n_steps=n_steps, tolerance=1e-10
        )

    assert_density(found, lambda x: normal(x * math.exp(-a)) - 2 * a, points())
    origin = torch.zeros(1, 2, dtype=torch.float64)
    assert float(found(origin)) == pytest.approx(-math.log(2 * math.pi) - 2 * a, abs=1e-6)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_log_density_of_a_matrix_field(solver):
    matrix = torch.tensor([[0.6, -1.4], [0.9, -0.3]], dtype=torch.float64)
    back = torch.linalg.matrix_exp(-matrix)

    def found(x):
        return ode.log_density(matrix_field(matrix), x, solver=solver, n_steps=64, tolerance=1e-10)

    assert_density(found, lambda x: normal(x @ back.T) - matrix.trace(), points())


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_log_density_of_a_field_that_changes_in_time(solver):
    # a(t) = 2 t + sin 3 t is not symmetric about 1/2: reading the clock backwards would show
    field = linear_field(lambda t: 2 * t + math.sin(3 * t))
    total = 1 + (1 - math.cos(3)) / 3

    def found(x):
        return ode.log_density(field, x, solver=solver, n_steps=64, tolerance=1e-10)

    assert_density(found, lambda x: normal(x * math.exp(-total)) - 2 * total, points())


def test_log_density_of_a_shift_that_speeds_up():
    # no divergence at all, and the way is only right where the time's direction is
    direction = torch.tensor([1.0, -2.0], dtype=torch.float64)

    def field(t, x):
        return 3 * t * t * direction.expand_as(x), torch.zeros_like(x[:, 0])

    assert_density(lambda x: ode.log_density(field, x), lambda x: normal(x - direction), points())
    half = points() * 0.1
    found = ode.log_density(field, half, data_time=0.5)  # only an eighth of the way is gone
    torch.testing.assert_close(found, normal(half - direction / 8), rtol=0, atol=1e-12)


def test_log_density_where_time_runs_from_data_to_noise():
    # the same field read the other way round is the field of opposite sign
    found = ode.log_density(
        linear_field(lambda t: 0.8), points(), noise_time=1.0, data_time=0.0, n_steps=64
    )
    expected = normal(points() * math.exp(0.8)) + 2 * 0.8
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", ode.SOLVERS)
def test_a_density_integrates_to_1(solver):
    matrix = torch.tensor([[0.5, 0.8], [-0.4, -0.6]], dtype=torch.float64)
    axis = torch.linspace(-9, 9, 91, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_density = ode.log_density(matrix_field(matrix), grid, solver=solver, n_steps=256)
    total = float(log_density.exp().sum() * (axis[1] - axis[0]) ** 2)
    assert total == pytest.approx(1.0, abs=3e-3 if solver == "euler" else 1e-4)


@pytest.mark.parametrize("solver", FIXED)
def test_order_of_convergence(solver):
    # y' = y cos t has y(t) = y(0) exp(sin t)
    start, exact = points(), points() * math.exp(math.sin(1.0))

    def error(n):
        end = ode.integrate(lambda t, y: y * math.cos(t), start, 0, 1, solver=solver, n_steps=n)
        return float((end - exact).abs().max())

    order = math.log2(error(16) / error(32))
    assert order == pytest.approx(ORDERS[solver], abs=0.15)


def test_dopri5_keeps_to_its_tolerance():
    start, exact = points(), points() * math.exp(math.sin(3.0))
    errors, calls = [], []
    for tolerance in (1e-4, 1e-7, 1e-10):
        count = []

        def derivative(t, y, count=count):
            count.append(t)
            return y * math.cos(t)

        end = ode.integrate(derivative, start, 0, 3, solver="dopri5", tolerance=tolerance)
        errors.append(float(((end - exact) / (1 + exact.abs())).abs().max()))
        calls.append(len(count))
        assert errors[-1] <= 10 * tolerance
    assert errors[0] > errors[1] > errors[2]
    assert calls[0] < calls[1] < calls[2]


@pytest.mark.parametrize("solver", ode.SOLVERS)
def test_backwards_undoes_forwards(solver):
    def pendulum(t, y):
        return torch.stack([y[:, 1], -torch.sin(y[:, 0]) + 0.3 * math.cos(t)], dim=1)

    start = points()
    options = {"solver": solver, "n_steps": 400, "tolerance": 1e-9}
    end = ode.integrate(pendulum, start, 0.2, 2.0, **options)
    assert float((end - start).abs().max()) > 0.5
    back = ode.integrate(pendulum, end, 2.0, 0.2, **options)
    tolerance = {"euler": 3e-2, "midpoint": 1e-4}.get(solver, 1e-7)
    torch.testing.assert_close(back, start, rtol=0, atol=tolerance)


@pytest.mark.parametrize("solver", ode.SOLVERS)
def test_no_way_at_all_changes_nothing(solver):
    assert torch.equal(ode.integrate(lambda t, y: y, points(), 0.4, 0.4, solver=solver), points())


def test_dopri5_that_runs_out_of_tries_returns_nan():
    def stiff(t, y):
        return -500.0 * (y - math.cos(50 * t))

    end = ode.integrate(stiff, points(), 0, 1, solver="dopri5", max_tries=20)
    assert bool(end.isnan().all())
    assert bool(ode.integrate(stiff, points(), 0, 1, solver="dopri5").isfinite().all())


def test_dopri5_that_meets_infinity_returns_nan():
    start = torch.ones(3, 2, dtype=torch.float64)  # y' = y^2 from 1 is 1 / (1 - t)
    end = ode.integrate(lambda t, y: y * y, start, 0, 2, solver="dopri5")
    assert bool(end.isnan().all())
    early = ode.integrate(lambda t, y: y * y, start, 0, 0.5, solver="dopri5", tolerance=1e-10)
    torch.testing.assert_close(early, 2 * start, rtol=0, atol=1e-8)


@pytest.mark.parametrize("solver", ode.SOLVERS)
def test_evaluations_per_step_counts_the_calls(solver):
    calls = []

    def derivative(t, y):
        calls.append(t)
        return torch.zeros_like(y)

    ode.integrate(derivative, points(), 0, 1, solver=solver, n_steps=1)
    assert len(calls) == ode.evaluations_per_step(solver)


@pytest.mark.parametrize(
    "ask",
    [ode.evaluations_per_step, lambda s: ode.integrate(lambda t, y: y, points(), 0, 1, solver=s)],
)
def test_an_unknown_solver_lists_the_near_ones(ask):
    with pytest.raises(ConfigError, match="unknown solver 'rk5': did you mean .*dopri5"):
        ask("rk5")


@pytest.mark.parametrize("solver", ode.SOLVERS)
@pytest.mark.parametrize("n_steps", [0, -3])
def test_no_steps_is_an_error_and_not_an_answer(solver, n_steps):
    with pytest.raises(ConfigError, match=f"n_steps.*>= 1.*{n_steps}"):
        ode.integrate(lambda t, y: y, points(), 0, 1, solver=solver, n_steps=n_steps)
