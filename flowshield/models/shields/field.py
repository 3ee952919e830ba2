"""The network of a continuous-time shield: a velocity of the command, and its exact divergence."""

__all__ = ["CommandField", "StateContext"]

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowshield.models.networks import FourierFeatures, ResidualMLP, SinusoidalEmbedding

# The scale's range, standardized units. A floor, because a Gaussian fitted to a thousand episodes
# becomes far too sure of itself on the next one; what is narrower, the field itself must learn.
_MIN_LOG_SCALE, _MAX_LOG_SCALE = math.log(0.03), math.log(2.0)


class StateContext(NamedTuple):
    """What the network knows of a state: computed once a query, for all times and commands.

    Attributes:
        features: [batch, (n_layers + 1) * field_dim], added inside the field's layers.
        location: [batch, 2], mean of the command given the state, standardized.
        log_scale: [batch, 2], log-diagonal of the scale matrix L (lower triangular).
        shear: [batch], its entry below the diagonal.
    """

    features: Tensor
    location: Tensor
    log_scale: Tensor
    shear: Tensor

    def repeat(self, n: int) -> "StateContext":
        """Every row n times in a row: [batch * n, ...]."""
        return StateContext(*(part.repeat_interleave(n, dim=0) for part in self))

    def whiten(self, g: Tensor) -> Tensor:
        """z = L^-1 (g - location) for standardized commands g [batch, 2]."""
        shifted = (g - self.location) * torch.exp(-self.log_scale)
        return torch.stack([shifted[:, 0], shifted[:, 1] - self.shear * shifted[:, 0]], dim=1)

    def unwhiten(self, z: Tensor) -> Tensor:
        """g = location + L z, the inverse of `whiten`."""
        sheared = torch.stack([z[:, 0], z[:, 1] + self.shear * z[:, 0]], dim=1)
        return self.location + torch.exp(self.log_scale) * sheared

    def log_abs_det(self) -> Tensor:
        """log |det L|, [batch]."""
        return self.log_scale.sum(dim=1)


class CommandField(nn.Module):
    """v(x, t | s): a small residual network on the command, steered by a large one on the state.

    The commands of late states lie in a region a hundred times narrower than those of early ones.
    A field in globally standardized units would have to be stiff there; so the state network also
    gives a location and a scale, and the field works on the whitened command, which is of order
    one everywhere.

    Only the small part runs at every solver step. The divergence is exact: both tangents of the
    two-dimensional command go through the layers beside the value, in the same matrix products.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hidden_dim: Width of the state network.
        field_dim: Width of the field.
        n_layers: Number of residual blocks of the field.
        time_embed_dim: Size of the embedding of time.
        n_fourier: Random Fourier features of the command beside the command itself; 0 = none.
        dropout: Share of the state networks' hidden units left out while training.
    """

    def __init__(
        self,
        state_dim: int,
        command_dim: int,
        hidden_dim: int,
        field_dim: int,
        n_layers: int,
        time_embed_dim: int,
        n_fourier: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.command_dim, self.field_dim, self.n_layers = command_dim, field_dim, n_layers
        self.encoder = ResidualMLP(
            state_dim, (n_layers + 1) * field_dim, hidden_dim, 3, dropout=dropout
        )
        self.scale_network = ResidualMLP(state_dim, 5, hidden_dim, 3, dropout=dropout)
        self.time_embedding = SinusoidalEmbedding(time_embed_dim)
        self.time_layer = nn.Linear(time_embed_dim, (n_layers + 1) * field_dim)
        self.fourier = FourierFeatures(command_dim, n_fourier, scale=0.2) if n_fourier else None
        self.first = nn.Linear(command_dim + 2 * n_fourier, field_dim, bias=False)
        # no biases of their own: time_layer has one for every block
        self.blocks = nn.ParameterList(
            nn.Linear(field_dim, field_dim, bias=False).weight for _ in range(n_layers)
        )
        self.last = nn.Linear(field_dim, command_dim)
        nn.init.zeros_(self.last.weight)  # starts as the field that does nothing
        nn.init.zeros_(self.last.bias)

    def encode(self, s: Tensor) -> StateContext:
        """Runs the state networks on standardized states [batch, state_dim]."""
        location, log_scale, shear = self.scale_network(s).split([2, 2, 1], dim=1)
        span = _MAX_LOG_SCALE - _MIN_LOG_SCALE
        log_scale = _MIN_LOG_SCALE + span * torch.sigmoid(log_scale + 1.0)
        return StateContext(self.encoder(s), location, log_scale, shear.squeeze(1))

    def forward(self, x: Tensor, t: Tensor, features: Tensor) -> Tensor:
        """The velocity.

        Args:
            x: Whitened commands on their way, [batch, 2].
            t: Time in [0, 1], [] or [batch].
            features: `StateContext.features`, [batch, ...].

        Returns:
            dx/dt, [batch, 2].
        """
        biases = self._biases(t, features)
        h = functional.silu(self.first(self._lift(x)) + biases[0])
        for block, bias in zip(self.blocks, biases[1:], strict=True):
            h = h + functional.silu(functional.linear(h, block) + bias)
        velocity: Tensor = self.last(h)
        return velocity

    def with_divergence(self, x: Tensor, t: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity [batch, 2] and its exact divergence [batch]; arguments as in `forward`."""
        biases = self._biases(t, features)
        # index 0 is the value, 1 and 2 are the tangents: all three share every matrix product
        h = self.first(torch.cat([self._lift(x).unsqueeze(0), self._lift_tangents(x)]))
        h = _silu_with_tangents(h, biases[0])
        for block, bias in zip(self.blocks, biases[1:], strict=True):
            h = h + _silu_with_tangents(functional.linear(h, block), bias)
        velocity: Tensor = self.last(h[0])
        return velocity, torch.einsum("ibf,if->b", h[1:], self.last.weight)

    def _biases(self, t: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        time = self.time_layer(self.time_embedding(t))
        biases: tuple[Tensor, ...] = (features + time).split(self.field_dim, dim=-1)
        return biases

    def _lift(self, x: Tensor) -> Tensor:
        return x if self.fourier is None else torch.cat([x, self.fourier(x)], dim=1)

    def _lift_tangents(self, x: Tensor) -> Tensor:
        """d lift / d x_i for each i, [2, batch, lifted]."""
        basis = torch.eye(self.command_dim, dtype=x.dtype, device=x.device)
        basis = basis.unsqueeze(1).expand(-1, len(x), -1)
        if self.fourier is None:
            return basis
        angles = x @ self.fourier.directions
        rates = self.fourier.directions.unsqueeze(1)
        return torch.cat([basis, angles.cos() * rates, -angles.sin() * rates], dim=2)


def _silu_with_tangents(product: Tensor, bias: Tensor) -> Tensor:
    """silu(product[0] + bias) and the tangents that come with it, [3, batch, f]."""
    z = product[0] + bias
    gate = torch.sigmoid(z)
    value = z * gate
    slope = torch.addcmul(gate + value, value, gate, value=-1.0)
    return torch.cat([value.unsqueeze(0), slope * product[1:]])
