"""Shield by denoising diffusion."""

__all__ = ["DiffusionShield", "cumulative_signal"]

import itertools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowshield.errors import ConfigError, unknown_name
from flowshield.models.checks import check_batch
from flowshield.models.shields.continuous import ContinuousShield, on_circle
from flowshield.models.shields.gaussianization import degaussianize

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

    With sin(angle) = sqrt(alpha-bar) and cos(angle) = sqrt(1 - alpha-bar), the noisy command is
    the circle of `ContinuousShield`. The network predicts v = cos(angle) x_1 - sin(angle) eps
    (Salimans & Ho 2022, arXiv 2202.00512, sec. 4 and appendix D, up to the sign of the angle), from
    which clean command and noise both follow without a division. In this angle the
    probability-flow equation (Song et al. 2021, arXiv 2011.13456, eq. 13) is simply
    dx / d angle = v: log-densities come by the same exact integral as the flow's.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        n_timesteps: Steps of the noise schedule.
        beta_schedule: "linear", "cosine" or "quadratic"; see `cumulative_signal`.
        ddim_steps: Steps of `sample`.
        settings: See `ContinuousShield`.
    """

    shield_type: ClassVar[str] = "diffusion"
    angles: Tensor

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        n_timesteps: int = 1000,
        beta_schedule: str = "linear",
        ddim_steps: int = 50,
        **settings: Any,
    ) -> None:
        super().__init__(
            state_dim,
            command_dim,
            n_timesteps=n_timesteps,
            beta_schedule=beta_schedule,
            ddim_steps=ddim_steps,
            **settings,
        )
        self.n_timesteps, self.ddim_steps = n_timesteps, ddim_steps
        signal = cumulative_signal(beta_schedule, n_timesteps)
        # falls with the timestep
        self.register_buffer("angles", torch.asin(signal.sqrt()).float())

    def denoise(self, noisy: Tensor, timestep: Tensor, state: Tensor) -> Tensor:
        """E[clean command | noisy command, s], in the coordinates of the diffusion.

        Those in which the fitted mixture is standard normal, see `ContinuousShield`.

        Args:
            noisy: [batch, 2].
            timestep: Whole numbers in 1..n_timesteps, [batch].
            state: [batch, state_dim], raw.

        Returns:
            [batch, 2].
        """
        check_batch(noisy=(noisy, self.command_dim), state=(state, self.state_dim))
        features = self.field.encode(self.state_standardizer(state)).features
        angle = self.angles[timestep - 1]
        velocity = self.field(noisy, features + self.field.time_bias(angle))
        return _split(noisy, velocity, angle.unsqueeze(1))[0]

    @torch.no_grad()
    def sample(self, state: Tensor, n_samples: int = 1, n_steps: int | None = None) -> Tensor:
        """Draws commands by deterministic DDIM steps (Song et al. 2020, arXiv 2010.02502, eq. 12).

        The last step goes to alpha-bar = 1, beyond the schedule, whose first step still is noisy.

        Args:
            state: [batch, state_dim], raw.
            n_samples: Commands a state.
            n_steps: DDIM steps; None = `ddim_steps`.

        Returns:
            Commands [batch, n_samples, 2], steps and raw return.
        """
        check_batch(state=(state, self.state_dim))
        context = self.field.encode(self.state_standardizer(state))
        features = context.features.repeat_interleave(n_samples, dim=0)
        steps = min(self.ddim_steps if n_steps is None else n_steps, self.n_timesteps)
        if steps < 1:  # the noise itself would come back as if it were samples
            raise ConfigError(f"n_steps: expected >= 1 DDIM steps, got {steps}")
        chosen = torch.linspace(self.n_timesteps - 1, 0, steps, device=state.device).long()
        angles = torch.cat([self.angles[chosen], self.angles.new_tensor([math.pi / 2])])
        x = self._noise(state, n_samples, None)
        for now, after in itertools.pairwise(angles):
            clean, noise = _split(x, self.field(x, features + self.field.time_bias(now)), now)
            x = on_circle(noise, clean, after)[0]
        g = degaussianize(self._components(context), x.view(len(state), n_samples, 2))
        return self.command_standardizer.inverse(g)

    def _sample_angles(self, n: int, device: torch.device) -> Tensor:
        return self.angles[torch.randint(self.n_timesteps, (n,), device=device)]

    def _error_weights(self, angles: Tensor) -> Tensor:
        return torch.ones_like(angles)


def _split(x: Tensor, velocity: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Clean command and noise from the noisy command and its velocity dx / d angle."""
    cos, sin = angle.cos(), angle.sin()
    return sin * x + cos * velocity, cos * x - sin * velocity
