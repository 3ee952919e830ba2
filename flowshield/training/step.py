"""One optimisation step, run eagerly or captured whole as a CUDA graph."""

__all__ = ["GraphedStep", "TrainingStep"]

from collections.abc import Callable

import torch
from torch import Tensor, nn

Fetch = Callable[[Tensor], tuple[Tensor, ...]]


class TrainingStep:
    """Gathers a batch, computes loss and gradients, clips, steps, averages the weights.

    Nothing in it waits for the device: losses are summed there and read once an epoch.

    Args:
        objective: Maps a batch to a scalar loss.
        fetch: Maps row indices [batch], on the device, to a batch.
        optimizer: Steps the objective's parameters.
        gradient_clip: Largest gradient norm, or None.
        averaged: Parameters of the exponential moving average, in the objective's order, or None.
        ema_decay: Its decay a step.
        device: Where the sums are kept.
    """

    def __init__(
        self,
        objective: nn.Module,
        fetch: Fetch,
        optimizer: torch.optim.Optimizer,
        *,
        gradient_clip: float | None,
        averaged: list[Tensor] | None,
        ema_decay: float | None,
        device: torch.device,
    ) -> None:
        self.objective, self.fetch, self.optimizer = objective, fetch, optimizer
        self.gradient_clip, self.averaged, self.ema_decay = gradient_clip, averaged, ema_decay
        self.parameters: list[Tensor] = [p for p in objective.parameters() if p.requires_grad]
        self.loss_sum = torch.zeros((), device=device)
        self.gradient_norm_sum = torch.zeros((), device=device)

    def __call__(self, indices: Tensor) -> None:
        """Trains on the rows `indices` [batch]."""
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.objective(*self.fetch(indices))
        loss.backward()  # type: ignore[no-untyped-call]
        if self.gradient_clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
            self.gradient_norm_sum += norm
        self.optimizer.step()
        if self.averaged is not None and self.ema_decay is not None:
            with torch.no_grad():
                torch._foreach_lerp_(self.averaged, self.parameters, 1.0 - self.ema_decay)
        self.loss_sum += loss.detach()

    def take_sums(self) -> tuple[Tensor, Tensor]:
        """The sums of loss and gradient norm since the last call, then starts anew."""
        sums = self.loss_sum.clone(), self.gradient_norm_sum.clone()
        self.loss_sum.zero_()
        self.gradient_norm_sum.zero_()
        return sums


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

    def _warm_up(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(self.indices)
        torch.cuda.current_stream().wait_stream(stream)
        self.seen += 1

    def _capture(self) -> None:
        # gradients must be allocated inside the graph's own memory pool
        self.step.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.indices)
