"""Shield by conditional quantiles: H given s, then R given s and H."""

__all__ = ["QuantileShield"]

from typing import ClassVar

import torch
from torch import Tensor

from flowshield.errors import ConfigError
from flowshield.models.checks import check_batch
from flowshield.models.networks import PlainMLP
from flowshield.models.shields.achievability import whole_horizons
from flowshield.models.shields.base import BaseShield
from flowshield.models.shields.quantile_grid import (
    inverse_distribution,
    log_density,
    log_distribution,
    quantile_levels,
    rising,
)

_CELLS = 64  # of H's distribution, for achievability
# Weight of the log-likelihood beside the pinball loss. With three times as much, quantiles that are
# far from the data of a state stay where they are, and half the horizon was hardly seen.
_LIKELIHOOD = 0.1
_RELATIVE = 4.0  # of a horizon relative to its quartiles, before it is compressed


class QuantileShield(BaseShield):
    """p(g | s) as a grid of monotone conditional quantiles.

    Quantile regression (Koenker & Bassett 1978) of H given s and of R given (s, H): R is predicted
    from s and H alone. The grid defines a distribution with a continuous density, see
    `quantile_grid`. Its conformal threshold makes it a conformalised quantile regression (Romano
    et al. 2019, arXiv 1905.03222) with the log-density as its score.

    It is trained with the pinball loss, which brings every quantile of a state to its place, and
    with a share of that density's log-likelihood, which is what verdicts are about but moves only
    the quantiles next to a datum.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        tau: Level that `get_quantile` answers with, in (0, 1).
        hidden_dim: Width of the hidden layers.
        n_layers: Number of hidden layers.
        n_quantiles: K, see `quantile_levels`.
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
        return_noise: float | None = None,
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
        self.horizon_network = PlainMLP(state_dim, n_quantiles, hidden_dim, n_layers, dropout)
        self.return_network = PlainMLP(state_dim + 2, n_quantiles, hidden_dim, n_layers, dropout)
        with torch.no_grad():
            for network in (self.horizon_network, self.return_network):
                # grids start out about one unit wide
                network[-1].get_parameter("bias")[1:] -= 3.0
        self.register_buffer("levels", quantile_levels(n_quantiles))

    def compute_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """Pinball loss and negative log-likelihood, summed over H and R, a scalar.

        The pinball loss is in units of the grid's width: late states, whose spread is a hundredth
        of the early ones', would hardly count otherwise.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
        """
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        g = self.command_standardizer(self.dequantize(command))
        grid, y = self._grids(self.state_standardizer(state), g.unsqueeze(1))
        loss = self._pinball(grid, y) - _LIKELIHOOD * log_density(self.levels, grid, y)
        return 2.0 * loss.mean()  # rows are H's and R's

    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """log p(H | s) + log p(R | s, H), [batch], raw nats. There is no solver: n_steps is moot.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            n_steps: Not used.
        """
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        return self.log_probs(state, command.unsqueeze(1)).squeeze(1)

    def log_probs(self, state: Tensor, commands: Tensor) -> Tensor:
        """`log_prob` of several commands [batch, m, 2] at each state, [batch, m].

        Args:
            state: [batch, state_dim], raw.
            commands: [batch, m, 2], steps and raw return.
        """
        g = self.command_standardizer(commands)
        grid, y = self._grids(self.state_standardizer(state), g)
        log_prob = log_density(self.levels, grid, y).view(2, *commands.shape[:2]).sum(dim=0)
        return log_prob - self.command_standardizer.log_abs_det(commands)

    @torch.no_grad()
    def sample_with_log_prob(
        self, state: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws commands by the inverse distribution function. See `BaseShield`."""
        check_batch(state=(state, self.state_dim))
        batch = len(state)
        rows = batch if generator is None else 1
        u = torch.rand(
            rows, n_samples, 2, generator=generator, device=state.device, dtype=state.dtype
        ).expand(batch, -1, -1)
        s = self.state_standardizer(state)
        horizon_grid = self._horizon_grid(s)
        horizon = inverse_distribution(self.levels, horizon_grid, u[..., 0])
        return_grid = self._return_grid(s, horizon, horizon_grid)
        ret = inverse_distribution(self.levels, return_grid, u[..., 1].reshape(-1, 1))
        log_prob = log_density(self.levels, horizon_grid, horizon)
        log_prob = log_prob + log_density(self.levels, return_grid, ret).view(batch, n_samples)
        g = torch.stack([horizon, ret.view(batch, n_samples)], dim=2)
        commands = self.command_standardizer.inverse(g)
        return commands, log_prob - self.command_standardizer.log_abs_det(commands)

    @torch.no_grad()
    def log_achievabilities(self, state: Tensor, commands: Tensor) -> Tensor:
        """log P(R' >= R, H' <= H | s) by quadrature over the grid of H. See `BaseShield`.

        H's distribution is cut into cells of equal mass; the part of each cell below H counts with
        the chance of R at the cell's middle. Every such term falls in R and rises in H.
        """
        cells = torch.arange(_CELLS, device=state.device, dtype=state.dtype)
        s = self.state_standardizer(state)
        horizon_grid = self._horizon_grid(s)
        middles = ((cells + 0.5) / _CELLS).expand(len(s), -1)
        horizon = inverse_distribution(self.levels, horizon_grid, middles)
        return_grid = self._return_grid(s, horizon, horizon_grid)
        latest = commands + commands.new_tensor([self.horizon_noise / 2, 0.0])
        unit = self.command_standardizer
        g = unit(latest)
        below = log_distribution(self.levels, horizon_grid, g[..., 0]).exp().unsqueeze(2)
        log_mass = ((below * _CELLS - cells).clamp(0.0, 1.0) / _CELLS).log()  # [batch, m, cells]
        asked = g[..., 1].repeat_interleave(_CELLS, dim=0)
        if unit.sheared:  # a return is another at the horizon of each cell
            asked = self._asked_in_cells(horizon, commands)
        # at least R is at most -R of what is mirrored
        log_chance = log_distribution(self.levels, -return_grid.flip(1), -asked)
        log_chance = log_chance.view(len(s), _CELLS, -1).transpose(1, 2)
        return (log_mass + log_chance).logsumexp(dim=2)

    def _asked_in_cells(self, horizon: Tensor, commands: Tensor) -> Tensor:
        """Standardized returns [batch * cells, m] of requests [batch, m, 2], where H is a cell's.

        Args:
            horizon: Middles of the cells, standardized [batch, cells].
            commands: Raw.
        """
        unit = self.command_standardizer
        middles = unit.inverse(torch.stack([horizon, torch.zeros_like(horizon)], dim=-1))
        steps = whole_horizons(middles)[..., 0].unsqueeze(2)
        asked = commands.unsqueeze(1).repeat(1, _CELLS, 1, 1)
        asked[..., 0] = steps
        standardized: Tensor = unit(asked)[..., 1].flatten(0, 1)
        return standardized

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
        median = inverse_distribution(self.levels, grid, half)
        ret = inverse_distribution(self.levels, self._return_grid(s, median, grid), tau)
        horizon = inverse_distribution(self.levels, grid, tau)
        return self.command_standardizer.inverse(torch.cat([horizon, ret], dim=1))

    def _horizon_grid(self, s: Tensor) -> Tensor:
        """Quantiles of H [batch, K] at states [batch, state_dim], all standardized."""
        return rising(self.horizon_network(s))

    def _return_grid(self, s: Tensor, horizon: Tensor, horizon_grid: Tensor) -> Tensor:
        """Quantiles of R [batch * m, K] given horizons [batch, m], all standardized.

        The network reads the horizon twice: as it is, and where it lies among the horizons of its
        state. A few steps more or less are nothing at a start and much just before the end.
        """
        k, m = self.n_quantiles, horizon.shape[1]
        quartiles = horizon_grid.detach()[:, k // 4 : 3 * k // 4 + 1]
        median = quartiles[:, k // 2 - k // 4, None]
        spread = quartiles[:, -1:] - quartiles[:, :1]
        relative = torch.asinh(_RELATIVE * (horizon - median) / spread)  # far out: bounded slopes
        rows = s if m == 1 else s.repeat_interleave(m, dim=0)
        given = [rows, horizon.reshape(-1, 1), relative.view(-1, 1)]
        return rising(self.return_network(torch.cat(given, dim=1)))

    def _grids(self, s: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """All H's, then all R's: quantiles [2 * batch * m, K] and values [2 * batch * m, 1].

        In one piece, because at one state an operation costs the same for two rows as for one.
        """
        m = g.shape[1]
        horizon_grid = self._horizon_grid(s)
        return_grid = self._return_grid(s, g[..., 0], horizon_grid)
        rows = horizon_grid if m == 1 else horizon_grid.repeat_interleave(m, dim=0)
        return torch.cat([rows, return_grid]), g.permute(2, 0, 1).reshape(-1, 1)

    def _pinball(self, grid: Tensor, y: Tensor) -> Tensor:
        """Mean over the levels, in units of the grid's width, [rows, 1]."""
        error = y - grid
        loss = torch.maximum(self.levels * error, (self.levels - 1) * error)
        return loss.mean(dim=1, keepdim=True) / (grid[:, -1:] - grid[:, :1]).detach()
