"""What flow matching and diffusion share: an exact density by one differential equation."""

__all__ = ["ContinuousShield"]

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowshield.models import ode
from flowshield.models.checks import check_batch
from flowshield.models.shields.base import BaseShield
from flowshield.models.shields.field import CommandField, StateContext


class ContinuousShield(BaseShield):
    """p(g | s) by a path from noise to data whose velocity a network has learnt.

    A subclass says which path (`_path`), at which times it trains (`_sample_times`), and between
    which times its equation runs (`noise_time`, `data_time`). Time runs from noise to data.

    The path lives in whitened coordinates z = L(s)^-1 (g - m(s)), where m and L are the mean and
    the scale of a Gaussian fitted along with it (see `CommandField`).

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hidden_dim: Width of the state network.
        field_dim: Width of the field.
        n_layers: Number of residual blocks of the field.
        time_embed_dim: Size of the embedding of time.
        n_fourier: Random Fourier features of the command; 0 = none.
        dropout: Share of the state networks' hidden units left out while training.
        solver: One of `flowshield.models.ode.SOLVERS`.
        n_steps: Solver steps of log_prob and sample.
        horizon_noise: See `BaseShield`.
        return_noise: See `BaseShield`.
        hyperparameters: Further arguments of the subclass's constructor.
    """

    noise_time: ClassVar[float] = 0.0
    data_time: ClassVar[float] = 1.0

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        *,
        hidden_dim: int = 256,
        field_dim: int = 128,
        n_layers: int = 3,
        time_embed_dim: int = 128,
        n_fourier: int = 0,
        dropout: float = 0.0,
        solver: str = "rk4",
        n_steps: int = 8,
        horizon_noise: float = 1.0,
        return_noise: float = 1.0,
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
            n_fourier=n_fourier,
            dropout=dropout,
            solver=solver,
            n_steps=n_steps,
            **hyperparameters,
        )
        self.solver, self.n_steps = solver, n_steps
        self.field = CommandField(
            state_dim,
            command_dim,
            hidden_dim,
            field_dim,
            n_layers,
            time_embed_dim,
            n_fourier,
            dropout,
        )

    @abstractmethod
    def _sample_times(self, n: int, device: torch.device) -> Tensor:
        """Training times [n]."""

    @abstractmethod
    def _path(self, noise: Tensor, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Points on the way and their velocities, [batch, 2] each, at times [batch, 1]."""

    def compute_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """Squared error of the velocity plus the Gaussian's negative log-likelihood, a scalar.

        The whitened command is detached: the path must not pull the scale towards what is easy to
        predict, only the likelihood may set it.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
        """
        context, g = self._encode(state, self.dequantize(command))
        z = context.whiten(g)
        gaussian = context.log_abs_det() - ode.standard_normal_log_density(z)
        z = z.detach()
        t = self._sample_times(len(z), z.device)
        x, target = self._path(torch.randn_like(z), z, t.unsqueeze(1))
        error = self.field(x, t, context.features) - target
        loss: Tensor = (error * error).sum(dim=1).mean() + gaussian.mean()
        return loss

    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """log p(g | s) with the exact divergence, [batch], raw nats.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            n_steps: Solver steps; None = as configured.
        """
        context, g = self._encode(state, command)
        log_prob = ode.log_density(
            self._augmented_field(context),
            context.whiten(g),
            noise_time=self.noise_time,
            data_time=self.data_time,
            solver=self.solver,
            n_steps=self._steps(n_steps),
        )
        return log_prob - context.log_abs_det() - self.command_standardizer.log_abs_det()

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
        context = self.field.encode(self.state_standardizer(state)).repeat(n_samples)
        noise = self._noise(state, n_samples, generator)
        start = torch.cat([noise, ode.standard_normal_log_density(noise).unsqueeze(1)], dim=1)
        end = ode.integrate(
            ode.augment(self._augmented_field(context, sign=-1.0)),
            start,
            self.noise_time,
            self.data_time,
            solver=self.solver,
            n_steps=self._steps(n_steps),
        )
        commands = self.command_standardizer.inverse(context.unwhiten(end[:, :-1]))
        log_prob = end[:, -1] - context.log_abs_det() - self.command_standardizer.log_abs_det()
        return commands.view(len(state), n_samples, -1), log_prob.view(len(state), n_samples)

    @torch.no_grad()
    def sample(self, state: Tensor, n_samples: int = 1, n_steps: int | None = None) -> Tensor:
        """Draws commands from p(g | s). See `BaseShield`."""
        return self.sample_with_log_prob(state, n_samples, n_steps=n_steps)[0]

    def _encode(self, state: Tensor, command: Tensor) -> tuple[StateContext, Tensor]:
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        context = self.field.encode(self.state_standardizer(state))
        return context, self.command_standardizer(command)

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

    def _augmented_field(self, context: StateContext, sign: float = 1.0) -> ode.AugmentedField:
        features = context.features

        def field(t: float, x: Tensor) -> tuple[Tensor, Tensor]:
            time = torch.tensor(t, dtype=x.dtype, device=x.device)
            velocity, divergence = self.field.with_divergence(x, time, features)
            return velocity, sign * divergence

        return field

    def _steps(self, n_steps: int | None) -> int:
        return self.n_steps if n_steps is None else n_steps
