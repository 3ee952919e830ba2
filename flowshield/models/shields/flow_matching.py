"""Shield by conditional flow matching."""

__all__ = ["FlowMatchingShield"]

from typing import ClassVar

import torch
from torch import Tensor

from flowshield.models.checks import check_batch
from flowshield.models.shields.continuous import ContinuousShield


class FlowMatchingShield(ContinuousShield):
    """p(g | s) by flow matching (Lipman et al. 2022, arXiv 2210.02747, eq. 20-23).

    t = 0 is noise, t = 1 is data: x_t = (1 - (1 - sigma_min) t) x_0 + t x_1, with velocity
    x_1 - (1 - sigma_min) x_0. Noise and data are paired independently: optimal transport within a
    batch gives a wrong conditional where the condition is continuous (arXiv 2503.10636).

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hidden_dim: Width of the state network.
        field_dim: Width of the field, which runs at every solver step.
        n_layers: Number of residual blocks of the field.
        time_embed_dim: Size of the embedding of time.
        sigma_min: Noise left at t = 1, whitened units.
        n_fourier: Random Fourier features of the command; 0 = none.
        dropout: Share of the state networks' hidden units left out while training.
        solver: One of `flowshield.models.ode.SOLVERS`.
        n_steps: Solver steps of log_prob and sample.
        horizon_noise: See `BaseShield`.
        return_noise: See `BaseShield`.
    """

    shield_type: ClassVar[str] = "flow_matching"

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        hidden_dim: int = 256,
        field_dim: int = 128,
        n_layers: int = 3,
        time_embed_dim: int = 128,
        sigma_min: float = 1e-4,
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
            sigma_min=sigma_min,
        )
        self.sigma_min = sigma_min

    def velocity(self, g: Tensor, t: Tensor, state: Tensor) -> Tensor:
        """The learnt velocity field, in the coordinates of the flow (whitened commands).

        Args:
            g: Points on the way from noise to data, [batch, 2].
            t: Times in [0, 1], [] or [batch]; 0 is noise.
            state: [batch, state_dim], raw.

        Returns:
            dx/dt, [batch, 2].
        """
        check_batch(g=(g, self.command_dim), state=(state, self.state_dim))
        features = self.field.encode(self.state_standardizer(state)).features
        velocity: Tensor = self.field(g, t, features)
        return velocity

    def _sample_times(self, n: int, device: torch.device) -> Tensor:
        return torch.rand(n, device=device)

    def _path(self, noise: Tensor, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        shrink = 1.0 - self.sigma_min
        return (1.0 - shrink * t) * noise + t * data, data - shrink * noise
