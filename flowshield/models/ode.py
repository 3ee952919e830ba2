"""Solvers for the ordinary differential equations of continuous-time models.

Fixed-step explicit Runge-Kutta methods by their tableau (euler, midpoint, rk4) and the adaptive
Dormand-Prince pair (dopri5). Everything is differentiable by automatic differentiation.
"""

__all__ = [
    "SOLVERS",
    "AugmentedField",
    "augment",
    "evaluations_per_step",
    "integrate",
    "log_density",
    "standard_normal_log_density",
    "times",
]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowshield.errors import ConfigError, unknown_name

Derivative = Callable[[float, Tensor], Tensor]
AugmentedField = Callable[[float, Tensor], tuple[Tensor, Tensor]]
Tableau = tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]

# nodes, stage weights, final weights
_TABLEAUS: dict[str, Tableau] = {
    "euler": ((0.0,), ((),), (1.0,)),
    "midpoint": ((0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "rk4": (
        (0.0, 0.5, 0.5, 1.0),
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}
# Dormand & Prince 1980, J. Comput. Appl. Math. 6(1), table 2
_DOPRI5: Tableau = (
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
)
_DOPRI5_FOURTH_ORDER = (
    5179 / 57600,
    0.0,
    7571 / 16695,
    393 / 640,
    -92097 / 339200,
    187 / 2100,
    1 / 40,
)

SOLVERS = (*_TABLEAUS, "dopri5")


def evaluations_per_step(solver: str) -> int:
    """How often one step of a fixed-step solver (or one try of dopri5) calls the field."""
    if solver == "dopri5":
        return len(_DOPRI5[0])
    if solver not in _TABLEAUS:
        raise unknown_name("solver", solver, SOLVERS)
    return len(_TABLEAUS[solver][0])


def integrate(
    derivative: Derivative,
    y: Tensor,
    start: float,
    end: float,
    *,
    solver: str = "rk4",
    n_steps: int = 16,
    tolerance: float = 1e-6,
    max_tries: int = 2000,
) -> Tensor:
    """Solves dy/dt = derivative(t, y) from `start` to `end`, which may lie before it.

    Args:
        derivative: Maps a time and y [...] to dy/dt [...].
        y: Value at `start`, [...].
        start: First time.
        end: Last time.
        solver: One of `SOLVERS`.
        n_steps: Equal steps of a fixed-step solver; dopri5's first step is the same size.
        tolerance: dopri5 only: largest error of one step in any entry of y, relative to
            1 + |entry|.
        max_tries: dopri5 only: steps tried before it gives up.

    Returns:
        y at `end`, [...]. All NaN if dopri5 gave up: never a number that was not computed.

    Raises:
        ConfigError: The solver is unknown, or n_steps is below one.
    """
    if n_steps < 1:  # no step at all would hand the start back as if it were the end
        raise ConfigError(f"n_steps: expected >= 1 solver steps, got {n_steps}")
    if solver == "dopri5":
        return _integrate_adaptively(derivative, y, start, end, n_steps, tolerance, max_tries)
    if solver not in _TABLEAUS:
        raise unknown_name("solver", solver, SOLVERS)
    step = (end - start) / n_steps
    for i in range(n_steps):
        y, _ = _step(derivative, start + i * step, y, step, _TABLEAUS[solver])
    return y


def times(solver: str, start: float, end: float, n_steps: int) -> list[float]:
    """The times at which `integrate` calls the field; none for dopri5, which chooses its own.

    Either way round: from `end` to `start` it asks for the same times, to rounding.
    """
    if solver == "dopri5":
        return []
    step = (end - start) / max(n_steps, 1)
    nodes = sorted(set(_TABLEAUS[solver][0]))
    return [start + (i + node) * step for i in range(n_steps) for node in nodes]


def log_density(
    augmented_field: AugmentedField,
    x: Tensor,
    *,
    noise_time: float = 0.0,
    data_time: float = 1.0,
    solver: str = "rk4",
    n_steps: int = 16,
    tolerance: float = 1e-6,
) -> Tensor:
    """Log-density of a continuous normalising flow whose noise is N(0, I).

    log p(x) = log N(x_0) - integral of div v along the path (Chen et al. 2018, arXiv 1806.07366,
    eq. 8), where x_0 is found by integrating from the data back to the noise.

    Args:
        augmented_field: Maps a time and x [batch, dim] to the velocity [batch, dim] and its exact
            divergence [batch].
        x: Points at `data_time`, [batch, dim].
        noise_time: Time of the noise.
        data_time: Time of the data.
        solver: See `integrate`.
        n_steps: See `integrate`.
        tolerance: See `integrate`.

    Returns:
        log p(x), [batch], nats per unit of x.
    """
    start = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
    end = integrate(
        augment(augmented_field),
        start,
        data_time,
        noise_time,
        solver=solver,
        n_steps=n_steps,
        tolerance=tolerance,
    )
    # the last column was integrated backwards in time: it is minus the integral of eq. 8
    return standard_normal_log_density(end[:, :-1]) + end[:, -1]


def augment(augmented_field: AugmentedField) -> Derivative:
    """Turns (velocity, divergence) into one derivative of [batch, dim + 1]."""

    def derivative(t: float, y: Tensor) -> Tensor:
        velocity, divergence = augmented_field(t, y[:, :-1])
        return torch.cat([velocity, divergence.unsqueeze(1)], dim=1)

    return derivative


def standard_normal_log_density(x: Tensor) -> Tensor:
    """log N(x; 0, I) for x [..., dim], [...]."""
    return -0.5 * (x * x).sum(dim=-1) - 0.5 * x.shape[-1] * math.log(2 * math.pi)


def _moved(y: Tensor, step: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """y + step * sum_i weights_i slopes_i."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0.0:
            y = torch.add(y, slope, alpha=step * weight)
    return y


def _step(
    derivative: Derivative, t: float, y: Tensor, step: float, tableau: Tableau
) -> tuple[Tensor, list[Tensor]]:
    """y one step on, and the slopes that led there."""
    nodes, stages, final = tableau
    slopes: list[Tensor] = []
    for node, weights in zip(nodes, stages, strict=True):
        slopes.append(derivative(t + node * step, _moved(y, step, weights, slopes)))
    return _moved(y, step, final, slopes), slopes


def _integrate_adaptively(
    derivative: Derivative,
    y: Tensor,
    start: float,
    end: float,
    n_steps: int,
    tolerance: float,
    max_tries: int,
) -> Tensor:
    t, step = start, (end - start) / n_steps
    for _ in range(max_tries):
        step = math.copysign(min(abs(step), abs(end - t)), end - start)
        moved, slopes = _step(derivative, t, y, step, _DOPRI5)
        difference = moved - _moved(y, step, _DOPRI5_FOURTH_ORDER, slopes)
        error = float((difference.detach().abs() / (1 + y.detach().abs())).max()) / tolerance
        if not math.isfinite(error):
            break
        if error <= 1.0:
            y, t = moved, t + step
            if abs(end - t) <= 1e-12 * max(1.0, abs(end)):
                return y
        # the classical controller: order 5, safety 0.9, at most a factor 5 either way
        step *= min(5.0, max(0.2, 0.9 * (error + 1e-12) ** -0.2))
    return torch.full_like(y, float("nan"))
