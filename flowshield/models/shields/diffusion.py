"""Shield by denoising diffusion."""

__all__ = ["DiffusionShield", "cumulative_signal"]

import math
from typing import ClassVar

import torch
from torch import Tensor

from flowshield.errors import ConfigError, unknown_name
from flowshield.models.checks import check_batch
from flowshield.models.shields.continuous import ContinuousShield

_SCHEDULES = ("linear", "cosine", "quadratic")


def cumulative_signal(schedule: str, n_timesteps: int) -> Tensor:
    """alpha-bar_k for k = 1..n_timesteps, float64, falling from near 1 to near 0.

    linear: beta from 1e-4 to 0.02 over 1,000 steps (Ho et al. 2020, arXiv 2006.11239, sec. 4), its
    ends scaled by 1000 / n_timesteps so that fewer steps also end in noise. quadratic: the same
    ends, sqrt(beta) linear. cosine: Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17.

    Raises:
        ConfigError: The schedule is unknown.
    """
    if schedule == "cosine":
        t = torch.linspace(0, 1, n_timesteps + 1, dtype=torch.float64)
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    elif schedule in ("linear", "quadratic"):
        scale, power = 1000 / n_timesteps, 1 if schedule == "linear" else 2
        low, high = (scale * 1e-4) ** (1 / power), (scale * 0.02) ** (1 / power)
        betas = torch.linspace(low, high, n_timesteps, dtype=torch.float64) ** power
        betas = betas.clamp(max=0.999)
    else:
        raise unknown_name("beta_schedule", schedule, _SCHEDULES)
    return torch.cumprod(1 - betas, dim=0)


class DiffusionShield(ContinuousShield):
    """p(g | s) by a denoising diffusion model (Ho et al. 2020, arXiv 2006.11239).

    With sin(phi) = sqrt(alpha-bar) and cos(phi) = sqrt(1 - alpha-bar), the noisy command is
    x = sin(phi) x_1 + cos(phi) eps. The network predicts v = dx/dphi = cos(phi) x_1 - sin(phi) eps
    (Salimans & Ho 2022, arXiv 2202.00512, sec. 4 and appendix D, up to the sign of the angle), from
    which clean command and noise both follow without a division. In this angle the
    probability-flow equation (Song et al. 2021, arXiv 2011.13456, eq. 13) is simply dx/dphi = v:
    log-densities come by the same exact integral as the flow's. Time is u = 2 phi / pi, from noise
    at u = 0 to data at u = 1.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hidden_dim: Width of the state network.
        field_dim: Width of the field, which runs at every solver step.
        n_layers: Number of residual blocks of the field.
        time_embed_dim: Size of the embedding of time.
        n_timesteps: Steps of the noise schedule.
        beta_schedule: "linear", "cosine" or "quadratic"; see `cumulative_signal`.
        ddim_steps: Steps of `sample`.
        n_fourier: Random Fourier features of the command; 0 = none.
        dropout: Share of the state networks' hidden units left out while training.
        solver: One of `flowshield.models.ode.SOLVERS`, for log_prob.
        n_steps: Solver steps of log_prob.
        horizon_noise: See `BaseShield`.
        return_noise: See `BaseShield`.
    """

    shield_type: ClassVar[str] = "diffusion"
    times: Tensor

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        hidden_dim: int = 256,
        field_dim: int = 128,
        n_layers: int = 3,
        time_embed_dim: int = 128,
        n_timesteps: int = 1000,
        beta_schedule: str = "linear",
        ddim_steps: int = 50,
        n_fourier: int = 0,
        dropout: float = 0.0,
        solver: str = "rk4",
        n_steps: int = 8,
        horizon_noise: float = 1.0,
        return_noise: float = 1.0,
    ) -> None:
        super().__init__(
            state_dim,
            command_dim,
            hidden_dim=hidden_dim,
            field_dim=field_dim,
            n_layers=n_layers,
            time_embed_dim=time_embed_dim,
            n_fourier=n_fourier,
            dropout=dropout,
            solver=solver,
            n_steps=n_steps,
            horizon_noise=horizon_noise,
            return_noise=return_noise,
            n_timesteps=n_timesteps,
            beta_schedule=beta_schedule,
            ddim_steps=ddim_steps,
        )
        self.n_timesteps, self.ddim_steps = n_timesteps, ddim_steps
        signal = cumulative_signal(beta_schedule, n_timesteps)
        times = torch.asin(signal.sqrt()) * 2 / math.pi  # falls with the timestep
        self.register_buffer("times", times.float())

    def denoise(self, noisy: Tensor, timestep: Tensor, state: Tensor) -> Tensor:
        """E[clean command | noisy command, s], in the coordinates of the diffusion (whitened).

        Args:
            noisy: [batch, 2].
            timestep: Whole numbers in 1..n_timesteps, [batch].
            state: [batch, state_dim], raw.

        Returns:
            [batch, 2].
        """
        check_batch(noisy=(noisy, self.command_dim), state=(state, self.state_dim))
        features = self.field.encode(self.state_standardizer(state)).features
        t = self.times[timestep - 1]
        return _split(noisy, self.field(noisy, t, features), t.unsqueeze(1))[0]

    @torch.no_grad()
    def sample(self, state: Tensor, n_samples: int = 1, n_steps: int | None = None) -> Tensor:
        """Draws commands by deterministic DDIM steps (Song et al. 2020, arXiv 2010.02502, eq. 12).

        Args:
            state: [batch, state_dim], raw.
            n_samples: Commands a state.
            n_steps: DDIM steps; None = `ddim_steps`.

        Returns:
            Commands [batch, n_samples, 2], steps and raw return.
        """
        check_batch(state=(state, self.state_dim))
        context = self.field.encode(self.state_standardizer(state)).repeat(n_samples)
        steps = min(self.ddim_steps if n_steps is None else n_steps, self.n_timesteps)
        if steps < 1:  # the noise itself would come back as if it were samples
            raise ConfigError(f"n_steps: expected >= 1 DDIM steps, got {steps}")
        chosen = torch.linspace(self.n_timesteps - 1, 0, steps + 1, device=state.device).long()
        x = torch.randn(len(state) * n_samples, self.command_dim).to(state)
        for now, after in zip(self.times[chosen[:-1]], self.times[chosen[1:]], strict=True):
            clean, noise = _split(x, self.field(x, now, context.features), now)
            x = _mix(clean, noise, after)
        commands = self.command_standardizer.inverse(context.unwhiten(x))
        return commands.view(len(state), n_samples, -1)

    def _sample_times(self, n: int, device: torch.device) -> Tensor:
        return self.times[torch.randint(self.n_timesteps, (n,), device=device)]

    def _path(self, noise: Tensor, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t * math.pi / 2
        # d/dt, not d/dangle: the network's output is the velocity in the solver's own time
        velocity = (math.pi / 2) * (angle.cos() * data - angle.sin() * noise)
        return _mix(data, noise, t), velocity


def _mix(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    angle = t * math.pi / 2
    return angle.sin() * clean + angle.cos() * noise


def _split(x: Tensor, velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Clean command and noise from the noisy command and its velocity d x / d t."""
    angle, v = t * math.pi / 2, velocity * 2 / math.pi
    return angle.sin() * x + angle.cos() * v, angle.cos() * x - angle.sin() * v
