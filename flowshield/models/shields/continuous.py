"""What flow matching and diffusion share: an exact density by one differential equation."""

__all__ = ["ContinuousShield", "on_circle"]

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from flowshield.models import ode
from flowshield.models.checks import check_batch
from flowshield.models.shields.base import BaseShield
from flowshield.models.shields.field import CommandField, StateContext
from flowshield.models.shields.gaussian_mixture import (
    Components,
    components,
    log_density,
)
from flowshield.models.shields.gaussianization import degaussianize, gaussianize

_DATA_ANGLE = math.pi / 2


class ContinuousShield(BaseShield):
    """p(g | s) by a path from noise to data whose velocity a network has learnt.

    The path lives in coordinates z in which a mixture of Gaussians, fitted along by its likelihood,
    is standard normal (`gaussianization`): with one component, the whitened command. What is left
    to the path is what the mixture gets wrong, so that it is short and takes few solver steps.

    Any mix a x_0 + b x_1 of noise and data lies, divided by sqrt(a^2 + b^2), on the circle
    y = cos(angle) x_0 + sin(angle) x_1. Flow matching and diffusion differ in which angles they
    train at and how they weigh the errors there; the equation is the same,
    dy / d angle = E[cos(angle) x_1 - sin(angle) x_0 | y], and is zero everywhere if the data are
    standard normal. The noise is at angle 0, the data at pi / 2.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hidden_dim: Width of the state network.
        field_dim: Width of the field.
        n_layers: Number of residual blocks of the field.
        time_embed_dim: Size of the embedding of the angle.
        n_components: Gaussians of the mixture.
        dropout: Share of the state network's hidden units left out while training.
        solver: One of `flowshield.models.ode.SOLVERS`.
        n_steps: Solver steps of log_prob and sample.
        tolerance: dopri5 only: largest error of one of its steps, see `ode.integrate`.
        horizon_noise: See `BaseShield`.
        return_noise: See `BaseShield`.
        hyperparameters: Further arguments of the subclass's constructor.
    """

    compiled: ClassVar[tuple[str, ...]] = ("_density", "_draw")

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        *,
        hidden_dim: int = 256,
        field_dim: int = 64,
        n_layers: int = 2,
        time_embed_dim: int = 32,
        n_components: int = 20,
        dropout: float = 0.0,
        solver: str = "rk4",
        n_steps: int = 2,
        tolerance: float = 1e-6,
        horizon_noise: float = 1.0,
        return_noise: float | None = None,
        **hyperparameters: Any,
    ) -> None:
        ode.evaluations_per_step(solver)  # an unknown solver is refused here, not at the first use
        super().__init__(
            state_dim,
            command_dim,
            horizon_noise=horizon_noise,
            return_noise=return_noise,
            hidden_dim=hidden_dim,
            field_dim=field_dim,
            n_layers=n_layers,
            time_embed_dim=time_embed_dim,
            n_components=n_components,
            dropout=dropout,
            solver=solver,
            n_steps=n_steps,
            tolerance=tolerance,
            **hyperparameters,
        )
        self.solver, self.n_steps, self.tolerance = solver, n_steps, tolerance
        self.field = CommandField(
            state_dim,
            command_dim,
            hidden_dim,
            field_dim,
            n_layers,
            time_embed_dim,
            n_components,
            dropout,
        )

    @abstractmethod
    def _sample_angles(self, n: int, device: torch.device) -> Tensor:
        """Training angles [n] in [0, pi / 2]."""

    @abstractmethod
    def _error_weights(self, angles: Tensor) -> Tensor:
        """Weights [n] of the squared errors at angles [n]."""

    def compute_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """Squared error of the velocity plus the mixture's negative log-likelihood, a scalar.

        The coordinates are detached: the path must not pull the mixture towards what is easy to
        predict, only the likelihood may set it.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
        """
        context, g = self._encode(state, self.dequantize(command))
        mixture = self._components(context)
        likelihood = log_density(mixture, g).mean()
        with torch.no_grad():
            data = gaussianize(mixture, g).squeeze(1)
        angles = self._sample_angles(len(data), data.device)
        point, velocity = on_circle(torch.randn_like(data), data, angles.unsqueeze(1))
        error = self.field(point, context.features + self.field.time_bias(angles)) - velocity
        loss: Tensor = (self._error_weights(angles) * (error * error).sum(dim=1)).mean()
        return loss - likelihood

    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """log p(g | s) with the exact divergence, [batch], raw nats.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            n_steps: Solver steps; None = as configured.
        """
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        return self.log_probs(state, command.unsqueeze(1), n_steps).squeeze(1)

    def log_probs(self, state: Tensor, commands: Tensor, n_steps: int | None = None) -> Tensor:
        """`log_prob` of several commands at each state, which is encoded once, [batch, m].

        Args:
            state: [batch, state_dim], raw.
            commands: [batch, m, 2], steps and raw return.
            n_steps: Solver steps; None = as configured.
        """
        return self._density(state, commands, self._steps(n_steps))

    @torch.no_grad()
    def sample_with_log_prob(
        self,
        state: Tensor,
        n_samples: int,
        generator: torch.Generator | None = None,
        n_steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Integrates noise to data and the divergence with it. See `BaseShield`.

        Args:
            state: [batch, state_dim], raw.
            n_samples: Commands a state.
            generator: Source of the noise.
            n_steps: Solver steps; None = as configured.
        """
        check_batch(state=(state, self.state_dim))
        noise = self._noise(state, n_samples, generator)
        return self._draw(state, noise, self._steps(n_steps))

    @torch.no_grad()
    def common_samples(self, state: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
        """See `CommandModel`: from quasi-random noise, which covers the plane more evenly."""
        check_batch(state=(state, self.state_dim))
        noise = _even_noise(n_samples).to(state).repeat(len(state), 1)
        return self._draw(state, noise, self.n_steps)

    @torch.no_grad()
    def common_commands(self, state: Tensor, n_samples: int) -> Tensor:
        """See `CommandModel`: without the divergence, which only a density needs."""
        check_batch(state=(state, self.state_dim))
        context = self.field.encode(self.state_standardizer(state))
        biases = self._biases(context, self.n_steps, n_samples)
        z = ode.integrate(
            lambda t, x: self.field(x, biases(t)),
            _even_noise(n_samples).to(state).repeat(len(state), 1),
            0.0,
            _DATA_ANGLE,
            solver=self.solver,
            n_steps=self.n_steps,
            tolerance=self.tolerance,
        ).view(len(state), n_samples, 2)
        return self.command_standardizer.inverse(degaussianize(self._components(context), z))

    @torch.no_grad()
    def sample(self, state: Tensor, n_samples: int = 1, n_steps: int | None = None) -> Tensor:
        """Draws commands from p(g | s). See `BaseShield`."""
        return self.sample_with_log_prob(state, n_samples, n_steps=n_steps)[0]

    def _density(self, state: Tensor, commands: Tensor, n_steps: int) -> Tensor:
        """Log-densities [batch, m] of commands [batch, m, 2]."""
        context, m = self.field.encode(self.state_standardizer(state)), commands.shape[1]
        mixture, g = self._components(context), self.command_standardizer(commands)
        z = gaussianize(mixture, g)
        log_prob = ode.log_density(
            self._augmented_field(context, n_steps, m),
            z.flatten(0, 1),
            data_time=_DATA_ANGLE,
            solver=self.solver,
            n_steps=n_steps,
            tolerance=self.tolerance,
        ).view(z.shape[:2])
        # the mixture's own density, corrected by how z differs from standard normal
        correction = log_prob - ode.standard_normal_log_density(z)
        jacobian = self.command_standardizer.log_abs_det(commands)
        return log_density(mixture, g) + correction - jacobian

    def _draw(self, state: Tensor, noise: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Commands [batch, n, 2] and log-densities [batch, n] from noise [batch * n, 2]."""
        n_samples = len(noise) // max(1, len(state))
        context = self.field.encode(self.state_standardizer(state))
        start = torch.cat([noise, ode.standard_normal_log_density(noise).unsqueeze(1)], dim=1)
        end = ode.integrate(
            ode.augment(self._augmented_field(context, n_steps, n_samples, sign=-1.0)),
            start,
            0.0,
            _DATA_ANGLE,
            solver=self.solver,
            n_steps=n_steps,
            tolerance=self.tolerance,
        ).view(len(state), n_samples, 3)
        mixture, z = self._components(context), end[..., :2]
        g = degaussianize(mixture, z)
        # g need not be the exact image of z for this to be its log-density to first order
        log_prob = log_density(mixture, g) + end[..., 2] - ode.standard_normal_log_density(z)
        commands = self.command_standardizer.inverse(g)
        return commands, log_prob - self.command_standardizer.log_abs_det(commands)

    def _encode(self, state: Tensor, command: Tensor) -> tuple[StateContext, Tensor]:
        """What is known of the states, and the standardized commands [batch, 1, 2]."""
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        context = self.field.encode(self.state_standardizer(state))
        return context, self.command_standardizer(command).unsqueeze(1)

    def _components(self, context: StateContext) -> Components:
        return components(context.mixture, self.least_scale, self.command_standardizer.std)

    def _noise(self, state: Tensor, n_samples: int, generator: torch.Generator | None) -> Tensor:
        """Points of N(0, I), [batch * n_samples, 2]: shared by all states if seeded, else not."""
        states = len(state) if generator is None else 1
        noise = torch.randn(
            states * n_samples,
            self.command_dim,
            generator=generator,
            device=state.device,
            dtype=state.dtype,
        )
        return noise if generator is None else noise.repeat(len(state), 1)

    def _augmented_field(
        self, context: StateContext, n_steps: int, n_samples: int = 1, sign: float = 1.0
    ) -> ode.AugmentedField:
        """The velocity and `sign` times its divergence, for `n_samples` rows of every state."""
        biases = self._biases(context, n_steps, n_samples)

        def field(t: float, x: Tensor) -> tuple[Tensor, Tensor]:
            velocity, divergence = self.field.with_divergence(x, biases(t))
            return velocity, sign * divergence

        return field

    def _biases(
        self, context: StateContext, n_steps: int, n_samples: int
    ) -> Callable[[float], Tensor]:
        """What the field adds at each time, for `n_samples` rows of every state."""
        features = context.features.repeat_interleave(n_samples, dim=0)
        # all times that the solver will ask for, embedded at once
        table = self._time_biases(ode.times(self.solver, 0.0, _DATA_ANGLE, n_steps), features)

        def at(t: float) -> Tensor:
            bias = table.get(round(t, 9))
            if bias is None:  # an adaptive solver's own choice
                (bias,) = self._time_biases([t], features).values()
            return features + bias

        return at

    def _time_biases(self, times: Sequence[float], like: Tensor) -> dict[float, Tensor]:
        angles = torch.tensor(times, dtype=like.dtype, device=like.device)
        biases = self.field.time_bias(angles).unbind()
        return {round(t, 9): bias for t, bias in zip(times, biases, strict=True)}

    def _steps(self, n_steps: int | None) -> int:
        return self.n_steps if n_steps is None else n_steps


@functools.lru_cache(maxsize=8)
def _even_noise(n: int) -> Tensor:
    """n points of a scrambled Sobol sequence (Owen 1998), made standard normal, [n, 2]."""
    engine = SobolEngine(2, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    points: Tensor = engine.draw(n, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    noise: Tensor = torch.special.ndtri(points)
    return noise


def on_circle(noise: Tensor, data: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Points y on the way from noise to data and dy / d angle, [batch, 2] each."""
    cos, sin = angle.cos(), angle.sin()
    return cos * noise + sin * data, cos * data - sin * noise
