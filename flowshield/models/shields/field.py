"""The network of a continuous-time shield: a velocity of the command, and its exact divergence."""

__all__ = ["CommandField", "StateContext"]

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowshield.models.networks import ResidualMLP, SinusoidalEmbedding
from flowshield.models.shields.gaussian_mixture import PARAMETERS, start_apart


class StateContext(NamedTuple):
    """What the network says of a state: computed once a query, for all times and commands.

    Attributes:
        features: [batch, (n_layers + 1) * field_dim], added inside the field's layers.
        mixture: [batch, PARAMETERS * n_components], see `gaussian_mixture.components`.
    """

    features: Tensor
    mixture: Tensor


class CommandField(nn.Module):
    """v(x, angle | s): a small residual network on the command, steered by a large one on s.

    Only the small part runs at every solver step. The divergence is exact: both tangents of the
    two-dimensional command go through the layers beside the value, in the same matrix products.

    The large part also gives a mixture of Gaussians, whose coordinates the field works in. Both
    read the same hidden layers: the mixture's likelihood teaches them in a few epochs what the
    regression of the velocity, whose targets are mostly noise, would take many times as long to.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hidden_dim: Width of the state network, which has three hidden layers.
        field_dim: Width of the field.
        n_layers: Number of residual blocks of the field.
        time_embed_dim: Size of the embedding of the angle.
        n_components: Gaussians of the mixture.
        dropout: Share of the state network's hidden units left out while training.
    """

    def __init__(
        self,
        state_dim: int,
        command_dim: int,
        hidden_dim: int,
        field_dim: int,
        n_layers: int,
        time_embed_dim: int,
        n_components: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = (n_layers + 1) * field_dim
        self.sizes = [field_dim] * (n_layers + 1)
        self.outputs = [width, PARAMETERS * n_components]
        self.encoder = ResidualMLP(state_dim, sum(self.outputs), hidden_dim, 3, dropout=dropout)
        start_apart(self.encoder.last, width, n_components)
        self.time_embedding = SinusoidalEmbedding(time_embed_dim)
        self.time_layer = nn.Linear(time_embed_dim, width)
        # no biases of their own: time_layer has one for every layer
        self.first = nn.Linear(command_dim, field_dim, bias=False)
        self.blocks = nn.ParameterList(
            nn.Linear(field_dim, field_dim, bias=False).weight for _ in range(n_layers)
        )
        self.last = nn.Linear(field_dim, command_dim)
        nn.init.zeros_(self.last.weight)  # starts as the field that does nothing
        nn.init.zeros_(self.last.bias)

    def encode(self, s: Tensor) -> StateContext:
        """Runs the state network on standardized states [batch, state_dim]."""
        return StateContext(*self.encoder(s).split(self.outputs, dim=1))

    def time_bias(self, angle: Tensor) -> Tensor:
        """What angles [...] in [0, pi/2] add to the features, [..., (n_layers + 1) * field_dim]."""
        bias: Tensor = self.time_layer(self.time_embedding(angle * (2 / math.pi)))
        return bias

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """The velocity.

        Args:
            x: Points on the way, [batch, 2].
            bias: `StateContext.features` + `time_bias(angle)`, [batch, ...].

        Returns:
            dx / d angle, [batch, 2].
        """
        biases = torch.split(bias, self.sizes, dim=-1)
        h = functional.silu(self.first(x) + biases[0])
        for block, b in zip(self.blocks, biases[1:], strict=True):
            h = h + functional.silu(functional.linear(h, block) + b)
        velocity: Tensor = self.last(h)
        return velocity

    def with_divergence(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity [batch, 2] and its exact divergence [batch]; arguments as in `forward`."""
        biases = torch.split(bias, self.sizes, dim=-1)
        directions = self.first.weight.t()
        value, slope = _silu_and_slope(torch.addmm(biases[0], x, directions))
        # index 0 is the value, 1 and 2 are the tangents: all three share every matrix product
        h = torch.cat([value.unsqueeze(0), slope * directions.unsqueeze(1)])
        for block, b in zip(self.blocks, biases[1:], strict=True):
            product = functional.linear(h, block)
            value, slope = _silu_and_slope(product[0] + b)
            h = h + torch.cat([value.unsqueeze(0), slope * product[1:]])
        divergence = (h[1:] * self.last.weight.unsqueeze(1)).sum(dim=(0, 2))
        return self.last(h[0]), divergence


def _silu_and_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    """silu(z) = z sigmoid(z) and its derivative."""
    gate = torch.sigmoid(z)
    value = z * gate
    return value, torch.addcmul(gate + value, value, gate, value=-1.0)
