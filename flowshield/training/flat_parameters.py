"""The trainable parameters of a module, end to end in one tensor."""

__all__ = ["FlatParameters"]

import torch
from torch import Tensor, nn


class FlatParameters:
    """Lets optimizer, clipping and moving average work on one tensor in place of many small ones.

    At small batches a good part of a step is the overhead of calling each of them for every layer.
    The module's parameters become views of the one tensor, and stay what they were for everything
    else: forward, backward, hooks, `state_dict`.

    Args:
        module: Its trainable parameters have one dtype and lie on one device; nothing may move
            them before `release`.

    Attributes:
        vector: All of them [n], with its gradient in `vector.grad`.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = [p for p in module.parameters() if p.requires_grad]
        self.vector = nn.Parameter(torch.cat([p.detach().flatten() for p in self._parts]))
        self.vector.grad = torch.zeros_like(self.vector)
        start = 0
        for part in self._parts:
            stop = start + part.numel()
            part.data = self.vector.detach()[start:stop].view_as(part)
            start = stop

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Moves the gradients that backward left into `vector.grad`; none counts as zero."""
        gradients = [_gradient(part).flatten() for part in self._parts]
        torch.cat(gradients, out=self.vector.grad)
        for part in self._parts:
            part.grad = None

    def release(self) -> None:
        """Gives every parameter memory of its own again."""
        for part in self._parts:
            part.data = part.data.clone()


def _gradient(part: Tensor) -> Tensor:
    return torch.zeros_like(part) if part.grad is None else part.grad
