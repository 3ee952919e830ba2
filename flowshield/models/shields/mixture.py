"""Shield by a mixture density network: Gaussians whose parameters the network gives."""

__all__ = ["MixtureShield"]

import math
from typing import ClassVar

import torch
from torch import Tensor

from flowshield.errors import ConfigError, DataError
from flowshield.models.checks import check_batch
from flowshield.models.networks import ResidualMLP
from flowshield.models.shields.base import BaseShield
from flowshield.models.shields.bivariate_normal import orthant_probability
from flowshield.models.shields.gaussian_mixture import (
    PARAMETERS,
    Components,
    components,
    log_density,
    start_apart,
)
from flowshield.models.shields.normal_mixture import NormalMixture

_ROUNDING = 1e-15  # more than the error of `orthant_probability`
_LOG_ROUNDING = math.log(_ROUNDING)
_ROWS = 4096  # of achievability at a time: 20 nodes a component take memory


class MixtureShield(BaseShield):
    """p(g | s) as a mixture of K Gaussians with full covariance, trained by exact likelihood.

    A mixture density network (Bishop 1994, "Mixture density networks", NCRG/94/004): one network
    gives every component's weight, mean and lower-triangular scale. Whatever is asked of the
    density then has a closed form: its logarithm, samples, R given s and H (`conditional`), and
    the probability of at least R within at most H steps (`achievability`).

    No component is narrower than the noise with which commands are dequantised (`least_scale`).

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hidden_dim: Width of the hidden layers.
        n_layers: Number of hidden layers.
        n_components: K.
        dropout: Share of hidden units left out while training.
        horizon_noise: See `BaseShield`.
        return_noise: See `BaseShield`.
    """

    shield_type: ClassVar[str] = "mixture"

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        hidden_dim: int = 256,
        n_layers: int = 3,
        n_components: int = 20,
        dropout: float = 0.0,
        horizon_noise: float = 1.0,
        return_noise: float | None = None,
    ) -> None:
        if n_components < 1:
            raise ConfigError(f"expected n_components of at least 1, got {n_components}")
        super().__init__(
            state_dim,
            command_dim,
            horizon_noise=horizon_noise,
            return_noise=return_noise,
            hidden_dim=hidden_dim,
            n_layers=n_layers,
            n_components=n_components,
            dropout=dropout,
        )
        self.n_components = n_components
        self.network = ResidualMLP(
            state_dim, PARAMETERS * n_components, hidden_dim, n_layers, dropout=dropout
        )
        start_apart(self.network.last, 0, n_components)

    def compute_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """Negative log-likelihood of the dequantised commands, a scalar, standardized nats.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
        """
        g = self.command_standardizer(self.dequantize(command))
        return -log_density(self._components(state), g.unsqueeze(1)).mean()

    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """log p(g | s), [batch], raw nats. There is no solver: n_steps is moot.

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
        log_prob = log_density(self._components(state), self.command_standardizer(commands))
        return log_prob - self.command_standardizer.log_abs_det(commands)

    @torch.no_grad()
    def sample_with_log_prob(
        self, state: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws a component, then its Gaussian. See `BaseShield`."""
        check_batch(state=(state, self.state_dim))
        components = self._components(state)
        drawn = _drawn(components, *_noise(state, n_samples, generator))
        commands = self.command_standardizer.inverse(drawn)
        log_prob = log_density(components, drawn)
        return commands, log_prob - self.command_standardizer.log_abs_det(commands)

    @torch.no_grad()
    def conditional(self, state: Tensor, horizon: Tensor | float) -> NormalMixture:
        """p(R | s, H): what returns go with a horizon.

        Args:
            state: [batch, state_dim], raw.
            horizon: Steps, [batch] or one for all.

        Returns:
            A mixture a row, raw returns: its weights, means and scales [batch, K].

        Raises:
            DataError: Rare returns of another size have bent the returns' standardizer.
        """
        check_batch(state=(state, self.state_dim))
        unit = self.command_standardizer
        if 1 in unit.bent:
            raise DataError(
                "expected returns of one size, got a shield whose data hold rare ones of another: "
                "they are modelled on a bent scale, where p(R | s, H) is no mixture of normal "
                "laws; use sample() or log_prob()"
            )
        h = torch.as_tensor(horizon, dtype=state.dtype, device=state.device).expand(len(state))
        g = unit(torch.stack([h, torch.zeros_like(h)], dim=1))[:, :1]
        means, stds = unit.mean, unit.std
        c = Components(*(part.squeeze(1) for part in self._components(state)))
        z = (g - c.mean_h) / c.scale_h
        weights = (c.logits - 0.5 * z * z - c.scale_h.log()).softmax(dim=1)
        constant = (unit.reward_per_step * h).unsqueeze(1)
        return NormalMixture(
            weights, constant + means[1] + stds[1] * (c.mean_r + c.slope * z), stds[1] * c.scale_r
        )

    @torch.no_grad()
    def log_achievabilities(self, state: Tensor, commands: Tensor) -> Tensor:
        """log P(R' >= R, H' <= H | s) of several requests at each state, [batch, m], nats.

        The sum over the components of bivariate normal orthant probabilities, exact to 1e-15 of
        probability. Requests that are less likely than that are told apart by the less likely of
        their two parts: the order stays right where the digits end. "H steps at the latest" ends
        at H + horizon_noise / 2, see `CommandModel.log_achievabilities`.

        Args:
            state: [batch, state_dim], raw.
            commands: Requests [batch, m, 2], steps and raw return.

        Returns:
            [batch, m], float64; NaN where it cannot be computed.
        """
        if self.command_standardizer.sheared:  # the bounds of R move with H: no orthant
            return super().log_achievabilities(state, commands)
        latest = commands + commands.new_tensor([self.horizon_noise / 2, 0.0])
        g = self.command_standardizer(latest).double()
        components = Components(*(part.double() for part in self._components(state)))
        rows = max(1, _ROWS // max(1, commands.shape[1]))
        if len(state) <= rows:
            return _log_orthant(components, g)
        parts = [slice(i, i + rows) for i in range(0, len(state), rows)]
        return torch.cat(
            [_log_orthant(Components(*(v[part] for v in components)), g[part]) for part in parts]
        )

    def _components(self, state: Tensor) -> Components:
        """The Gaussians of raw states [batch, state_dim]."""
        raw = self.network(self.state_standardizer(state))
        return components(raw, self.least_scale, self.command_standardizer.std)


def _log_orthant(c: Components, g: Tensor) -> Tensor:
    """log P(R' >= R, H' <= H), [batch, n], at standardized requests [batch, n, 2]."""
    deviation = torch.hypot(c.slope, c.scale_r)
    x = (c.mean_h - g[..., :1]) / c.scale_h  # of -H: at most becomes at least
    y = (g[..., 1:] - c.mean_r) / deviation
    probability = orthant_probability(x, y, -c.slope / deviation)
    # both are never likelier than either: a margin, exact in its logarithm, takes over in the end
    margin = torch.special.log_ndtr(-torch.maximum(x, y))
    safe = (probability - _ROUNDING).clamp(min=0.0).log()
    terms = c.logits + torch.logaddexp(safe, _LOG_ROUNDING + margin)
    return (terms.logsumexp(dim=2) - c.logits.logsumexp(dim=2)).clamp(max=0.0)


def _noise(
    state: Tensor, n_samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Uniform [batch, n] and normal [batch, n, 2] noise: shared by all states if seeded."""
    rows = len(state) if generator is None else 1
    device, dtype = state.device, state.dtype
    uniform = torch.rand(rows, n_samples, generator=generator, device=device, dtype=dtype)
    normal = torch.randn(rows, n_samples, 2, generator=generator, device=device, dtype=dtype)
    return uniform.expand(len(state), -1), normal.expand(len(state), -1, -1)


def _drawn(c: Components, uniform: Tensor, normal: Tensor) -> Tensor:
    """Standardized commands [batch, n, 2] from noise."""
    reached = c.logits.squeeze(1).softmax(dim=1).cumsum(dim=1)
    chosen = torch.searchsorted(reached, uniform.contiguous())
    chosen = chosen.clamp(max=reached.shape[1] - 1)  # rounding may leave the sum below 1
    mean_h, mean_r, scale_h, scale_r, slope = (part.squeeze(1).gather(1, chosen) for part in c[1:])
    z_1, z_2 = normal.unbind(dim=2)
    return torch.stack([mean_h + scale_h * z_1, mean_r + slope * z_1 + scale_r * z_2], dim=2)
