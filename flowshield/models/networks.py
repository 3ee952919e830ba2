"""Building blocks: plain and residual MLP, and the embedding of time."""

__all__ = [
    "PlainMLP",
    "ResidualMLP",
    "SinusoidalEmbedding",
    "activation",
]

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowshield.errors import unknown_name

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "elu": functional.elu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Looks an activation function up by its config name.

    Raises:
        ConfigError: The name is unknown; the message lists the known ones.
    """
    if name not in _ACTIVATIONS:
        raise unknown_name("activation", name, _ACTIVATIONS)
    return _ACTIVATIONS[name]


class PlainMLP(nn.Sequential):
    """Multilayer perceptron with SiLU, without connections that skip a layer.

    The quantile shield's figures were measured with it; `ResidualMLP` was not tried under its new
    loss.

    Args:
        in_dim: Size of the input.
        out_dim: Size of the output.
        hidden_dim: Width of every hidden layer.
        n_layers: Number of hidden layers, at least one.
        dropout: Share of hidden units left out while training.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 256,
        n_layers: int = 3,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = [nn.Linear(in_dim, hidden_dim), nn.SiLU()]
        for _ in range(n_layers - 1):
            layers += [nn.Dropout(dropout), nn.Linear(hidden_dim, hidden_dim), nn.SiLU()]
        super().__init__(*layers, nn.Dropout(dropout), nn.Linear(hidden_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., in_dim] to [..., out_dim]."""
        for layer in self:
            # at batch 1 even calling what does nothing takes time
            if self.training or not isinstance(layer, nn.Dropout):
                x = layer(x)
        return x


class ResidualMLP(nn.Module):
    """Multilayer perceptron whose hidden layers after the first add to what they read.

    Args:
        in_dim: Size of the input.
        out_dim: Size of the output.
        hidden_dim: Width of every hidden layer.
        n_layers: Number of hidden layers, at least one.
        activation_name: See `activation`.
        dropout: Share of hidden units left out while training.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 256,
        n_layers: int = 3,
        activation_name: str = "silu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.activation = activation(activation_name)
        self.first = nn.Linear(in_dim, hidden_dim)
        self.hidden = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(n_layers - 1))
        self.last = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., in_dim] to [..., out_dim]."""
        h = self.activation(self.first(x))
        for layer in self.hidden:
            h = h + self.activation(layer(self._dropped(h)))
        out: Tensor = self.last(self._dropped(h))
        return out

    def _dropped(self, h: Tensor) -> Tensor:
        # at batch 1 even calling what does nothing takes time
        return self.dropout(h) if self.training else h


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a time in [0, 1] at frequencies spaced evenly in their logarithm.

    The highest frequency is kept low on purpose: a field that wiggles in time needs small
    solver steps.

    Args:
        dim: Size of the embedding, even.
        max_frequency: Highest angular frequency, radians per unit of time.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_frequency: float = 30.0) -> None:
        super().__init__()
        exponents = torch.linspace(0.0, math.log(max_frequency), dim // 2)
        self.register_buffer("frequencies", exponents.exp())

    def forward(self, t: Tensor) -> Tensor:
        """Maps times [...] to [..., dim]."""
        angles = t.unsqueeze(-1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
