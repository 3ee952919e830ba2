"""Shield by conditional quantiles: H given s, then R given s and H."""

__all__ = ["QuantileShield"]

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from flowshield.errors import ConfigError
from flowshield.models.checks import check_batch
from flowshield.models.networks import ResidualMLP
from flowshield.models.shields.base import BaseShield

_LEAST_GAP = 1e-4  # between neighbouring quantiles, standardized units: keeps the density finite
_CELLS = 64  # of H's distribution, for achievability
_TAIL_SCALE = 0.25  # of the exponential tails, in units of the whole grid's width


class QuantileShield(BaseShield):
    """p(g | s) as a grid of monotone conditional quantiles, trained with the pinball loss.

    Quantile regression (Koenker & Bassett 1978) of H given s and of R given (s, H): R is predicted
    from s and H alone. The grid defines a density: constant between neighbouring quantiles, with
    exponential tails that hold 1/(2K) of the mass each and fall off at the scale of the whole
    grid (the gap at its end is the least certain of all, and would make a held-out command a little
    outside it next to impossible). Its conformal
    threshold makes it a conformalised quantile regression (Romano et al. 2019, arXiv 1905.03222)
    with the log-density as its score.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        tau: Level that `get_quantile` answers with, in (0, 1).
        hidden_dim: Width of the hidden layers.
        n_layers: Number of hidden layers.
        n_quantiles: K levels (k + 1/2) / K.
        dropout: Share of hidden units left out while training.
        horizon_noise: See `BaseShield`.
        return_noise: See `BaseShield`.
    """

    shield_type: ClassVar[str] = "quantile"
    levels: Tensor

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        tau: float = 0.9,
        hidden_dim: int = 256,
        n_layers: int = 3,
        n_quantiles: int = 32,
        dropout: float = 0.0,
        horizon_noise: float = 1.0,
        return_noise: float = 1.0,
    ) -> None:
        if not 0.0 < tau < 1.0 or n_quantiles < 2:
            raise ConfigError(
                f"expected 0 < tau < 1 and n_quantiles >= 2, got tau={tau}, "
                f"n_quantiles={n_quantiles}"
            )
        super().__init__(
            state_dim,
            command_dim,
            horizon_noise=horizon_noise,
            return_noise=return_noise,
            tau=tau,
            hidden_dim=hidden_dim,
            n_layers=n_layers,
            n_quantiles=n_quantiles,
            dropout=dropout,
        )
        self.tau, self.n_quantiles = tau, n_quantiles
        self.horizon_network = ResidualMLP(
            state_dim, n_quantiles, hidden_dim, n_layers, dropout=dropout
        )
        self.return_network = ResidualMLP(
            state_dim + 1, n_quantiles, hidden_dim, n_layers, dropout=dropout
        )
        self.register_buffer("levels", (torch.arange(n_quantiles) + 0.5) / n_quantiles)

    def compute_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """Pinball loss over the grid, summed over H and R, a scalar, standardized units.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
        """
        s, g = self._standardize(state, self.dequantize(command))
        loss: Tensor = self._pinball(self._horizon_grid(s), g[:, :1])
        return loss + self._pinball(self._return_grid(s, g[:, :1]), g[:, 1:])

    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """log p(H | s) + log p(R | s, H), [batch], raw nats. There is no solver: n_steps is moot.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            n_steps: Not used.
        """
        s, g = self._standardize(state, command)
        horizon, ret = g[:, :1], g[:, 1:]
        log_horizon = self._log_density(self._horizon_grid(s), horizon)
        log_return = self._log_density(self._return_grid(s, horizon), ret)
        return (log_horizon + log_return).squeeze(1) - self.command_standardizer.log_abs_det()

    @torch.no_grad()
    def sample_with_log_prob(
        self, state: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws commands by the inverse distribution function. See `BaseShield`."""
        states = len(state) if generator is None else 1
        u = torch.rand(
            states, n_samples, 2, generator=generator, device=state.device, dtype=state.dtype
        ).expand(len(state), -1, -1)
        s = self.state_standardizer(state).repeat_interleave(n_samples, dim=0)
        u = u.reshape(-1, 2)
        horizon = self._inverse_distribution(self._horizon_grid(s), u[:, :1])
        ret = self._inverse_distribution(self._return_grid(s, horizon), u[:, 1:])
        commands = self.command_standardizer.inverse(torch.cat([horizon, ret], dim=1))
        log_prob = self.log_prob(state.repeat_interleave(n_samples, dim=0), commands)
        return commands.view(len(state), n_samples, 2), log_prob.view(len(state), n_samples)

    @torch.no_grad()
    def log_achievabilities(self, state: Tensor, commands: Tensor) -> Tensor:
        """log P(R' >= R, H' <= H | s) by quadrature over the grid of H. See `BaseShield`.

        H's distribution is cut into cells of equal mass; the part of each cell below H counts with
        the chance of R at the cell's middle. Every such term falls in R and rises in H.
        """
        cells = torch.arange(_CELLS, device=state.device, dtype=state.dtype)
        s = self.state_standardizer(state)
        horizon_grid = self._horizon_grid(s)
        middles = (cells + 0.5).expand(len(s), -1).reshape(-1, 1) / _CELLS
        rows = horizon_grid.repeat_interleave(_CELLS, dim=0)
        horizon = self._inverse_distribution(rows, middles)
        return_grid = self._return_grid(s.repeat_interleave(_CELLS, dim=0), horizon)
        latest = commands + commands.new_tensor([self.horizon_noise / 2, 0.0])
        g = self.command_standardizer(latest)
        below = self._log_distribution(horizon_grid, g[..., 0]).exp().unsqueeze(2)  # [batch, m, 1]
        log_mass = ((below * _CELLS - cells).clamp(0.0, 1.0) / _CELLS).log()  # [batch, m, cells]
        asked = g[..., 1].repeat_interleave(_CELLS, dim=0)
        # at least R is at most -R of what is mirrored
        log_chance = self._log_distribution(-return_grid.flip(1), -asked)
        log_chance = log_chance.view(len(s), _CELLS, -1).transpose(1, 2)
        return (log_mass + log_chance).logsumexp(dim=2)

    @torch.no_grad()
    def get_quantile(self, state: Tensor) -> Tensor:
        """The tau-quantile of H given s, and that of R given s and the median H.

        Args:
            state: [batch, state_dim], raw.

        Returns:
            [batch, 2], steps and raw return.
        """
        check_batch(state=(state, self.state_dim))
        s = self.state_standardizer(state)
        tau, half = torch.full_like(s[:, :1], self.tau), torch.full_like(s[:, :1], 0.5)
        grid = self._horizon_grid(s)
        median = self._inverse_distribution(grid, half)
        ret = self._inverse_distribution(self._return_grid(s, median), tau)
        horizon = self._inverse_distribution(grid, tau)
        return self.command_standardizer.inverse(torch.cat([horizon, ret], dim=1))

    def _standardize(self, state: Tensor, command: Tensor) -> tuple[Tensor, Tensor]:
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        return self.state_standardizer(state), self.command_standardizer(command)

    def _horizon_grid(self, s: Tensor) -> Tensor:
        return _monotone(self.horizon_network(s))

    def _return_grid(self, s: Tensor, horizon: Tensor) -> Tensor:
        return _monotone(self.return_network(torch.cat([s, horizon], dim=1)))

    def _pinball(self, grid: Tensor, y: Tensor) -> Tensor:
        error = y - grid
        return torch.maximum(self.levels * error, (self.levels - 1) * error).mean()

    def _log_density(self, grid: Tensor, y: Tensor) -> Tensor:
        """Log-density [batch, 1] at y [batch, 1] of the distribution with quantiles [batch, K]."""
        gaps = grid.diff(dim=1)
        inside = (torch.searchsorted(grid.contiguous(), y.contiguous()) - 1).clamp(
            0, self.n_quantiles - 2
        )
        between = -math.log(self.n_quantiles) - gaps.gather(1, inside).log()
        outside = (grid[:, :1] - y).clamp(min=0) + (y - grid[:, -1:]).clamp(min=0)
        scale = _TAIL_SCALE * (grid[:, -1:] - grid[:, :1])
        tail = -math.log(2 * self.n_quantiles) - scale.log() - outside / scale
        # NaN is neither outside nor inside, and must not be read as inside
        return torch.where(outside <= 0, between, tail)

    def _log_distribution(self, grid: Tensor, y: Tensor) -> Tensor:
        """log P(Y <= y), float64 [batch, m] at y [batch, m], of quantiles [batch, K]."""
        grid, y, k = grid.double(), y.double(), self.n_quantiles
        index = (torch.searchsorted(grid.contiguous(), y.contiguous()) - 1).clamp(0, k - 2)
        start, end = grid.gather(1, index), grid.gather(1, index + 1)
        between = ((index + 0.5 + (y - start) / (end - start)) / k).log()
        scale = _TAIL_SCALE * (grid[:, -1:] - grid[:, :1])
        below = -math.log(2 * k) - (grid[:, :1] - y) / scale
        above = torch.log1p(-torch.exp(-(y - grid[:, -1:]) / scale) / (2 * k))
        inside = torch.where(y > grid[:, -1:], above, between)
        return torch.where(y < grid[:, :1], below, inside)

    def _inverse_distribution(self, grid: Tensor, u: Tensor) -> Tensor:
        """Quantiles [batch, 1] at levels u [batch, 1]."""
        k = self.n_quantiles
        position = u * k - 0.5  # in units of levels: 0 is the first quantile
        index = position.floor().long().clamp(0, k - 2)
        gap = grid.diff(dim=1).gather(1, index)
        between = grid.gather(1, index) + (position - index).clamp(0, 1) * gap
        scale = _TAIL_SCALE * (grid[:, -1:] - grid[:, :1])
        low = torch.log((2 * k * u).clamp(1e-12, 1.0))
        high = torch.log((2 * k * (1 - u)).clamp(1e-12, 1.0))
        return between + scale * (low - high)


def _monotone(raw: Tensor) -> Tensor:
    """Turns unconstrained rows [batch, K] into increasing ones."""
    gaps = functional.softplus(raw[:, 1:] - 3.0) + _LEAST_GAP  # -3: start out about one unit wide
    return torch.cat([raw[:, :1], raw[:, :1] + gaps.cumsum(dim=1)], dim=1)
