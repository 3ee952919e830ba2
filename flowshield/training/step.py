"""One optimisation step, run eagerly or captured whole as a CUDA graph."""

__all__ = ["GraphedStep", "TrainingStep"]

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowshield.training.flat_parameters import FlatParameters

Fetch = Callable[[Tensor], tuple[Tensor, ...]]


class TrainingStep:
    """Gathers a batch, computes loss and gradients, clips, steps, averages the weights.

    Nothing in it waits for the device: losses are summed there and read once an epoch.

    Args:
        objective: Maps a batch to a scalar loss.
        fetch: Maps row indices [batch], on the device, to a batch.
        parameters: The objective's parameters.
        optimizer: Steps `parameters.vector`.
        gradient_clip: Largest gradient norm, or None.
        averaged: Exponential moving average of `parameters.vector`, or None.
        ema_decay: Its decay a step.
    """

    def __init__(
        self,
        objective: nn.Module,
        fetch: Fetch,
        parameters: FlatParameters,
        optimizer: torch.optim.Optimizer,
        *,
        gradient_clip: float | None,
        averaged: Tensor | None,
        ema_decay: float | None,
    ) -> None:
        self.objective, self.fetch = objective, fetch
        self.parameters, self.optimizer = parameters, optimizer
        self.gradient_clip, self.averaged, self.ema_decay = gradient_clip, averaged, ema_decay
        self.loss_sum = torch.zeros((), device=parameters.vector.device)
        self.gradient_norm_sum = torch.zeros_like(self.loss_sum)
        # of loss and gradient: whether all were finite so far, and the steps before one was not
        self.finite = torch.ones(2, dtype=torch.bool, device=parameters.vector.device)
        self.good_steps = torch.zeros(2, dtype=torch.long, device=parameters.vector.device)

    def __call__(self, indices: Tensor) -> None:
        """Trains on the rows `indices` [batch]."""
        loss: Tensor = self.objective(*self.fetch(indices))
        loss.backward()  # type: ignore[no-untyped-call]
        vector = self.parameters.vector
        self.parameters.take_gradients()
        limit = math.inf if self.gradient_clip is None else self.gradient_clip
        norm = nn.utils.clip_grad_norm_(vector, limit)
        self.gradient_norm_sum += norm
        self.optimizer.step()
        if self.averaged is not None and self.ema_decay is not None:
            with torch.no_grad():
                self.averaged.lerp_(vector, 1.0 - self.ema_decay)
        self.loss_sum += loss.detach()
        self.finite &= torch.stack([loss.detach(), norm]).isfinite()
        self.good_steps += self.finite

    def take_sums(self) -> tuple[Tensor, Tensor]:
        """The sums of loss and gradient norm since the last call, then starts anew."""
        sums = self.loss_sum.clone(), self.gradient_norm_sum.clone()
        self.loss_sum.zero_()
        self.gradient_norm_sum.zero_()
        return sums

    def take_good_steps(self) -> list[int]:
        """Steps before the first loss, and before the first gradient, that was not finite.

        Counted since the last call, which this one is for the next.
        """
        good: list[int] = self.good_steps.tolist()
        self.good_steps.zero_()
        self.finite.fill_(True)
        return good


class GraphedStep:
    """The same step, captured once as a CUDA graph and replayed with new row indices.

    At small batches a GPU spends its time waiting for kernels to be launched; a replay launches
    them all at once. The optimizer must have been made with capturable=True and a tensor as
    learning rate, or the captured step would repeat the first rate for ever.

    Args:
        step: The step to capture.
        batch_size: Rows a step; the graph takes no other number.
    """

    WARM_UP = 3  # steps run eagerly on a side stream before capture, as CUDA asks for

    def __init__(self, step: TrainingStep, batch_size: int) -> None:
        self.step = step
        self.indices = torch.zeros(batch_size, dtype=torch.long, device=step.loss_sum.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.seen = 0

    def __call__(self, indices: Tensor) -> None:
        """Trains on the rows `indices` [batch_size]."""
        self.indices.copy_(indices)
        if self.graph is not None:
            self.graph.replay()
        elif self.seen < self.WARM_UP:
            self._warm_up()
        else:
            self._capture()
            self.graph.replay()  # type: ignore[attr-defined]

    def take_sums(self) -> tuple[Tensor, Tensor]:
        """See `TrainingStep.take_sums`."""
        return self.step.take_sums()

    def take_good_steps(self) -> list[int]:
        """See `TrainingStep.take_good_steps`."""
        return self.step.take_good_steps()

    def _warm_up(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(self.indices)
        torch.cuda.current_stream().wait_stream(stream)
        self.seen += 1

    def _capture(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.indices)
