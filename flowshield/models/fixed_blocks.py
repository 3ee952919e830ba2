"""Agents and shields whose answer for a row does not depend on the other rows of its batch."""

__all__ = ["FixedBlockAgent", "FixedBlockShield", "FixedBlocks"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowshield.models.action_heads import Generators
from flowshield.models.agent import UDRLAgent
from flowshield.models.shields.base import BaseShield
from flowshield.models.shields.projection import Projection

# A matrix product of another size may be computed by another kernel, and a row that starts at
# another alignment by another branch of it: the sums then end in other bits.
# So many share one look at the weights, which is most of the time that a small network takes.
_ROWS = 64  # of a block


class FixedBlocks:
    """Computes functions of a batch in blocks of one size, where every row has a place of its own.

    A product of matrices of one size does the same to a row whatever the others are. So a row with
    the same label has the same answer, to the bit, in whatever company: on one thread, on
    processors of one kind and with one release of torch.
    """

    def __init__(self) -> None:
        self._labels = np.empty(0, np.intp)
        self._n_blocks, self._places = 0, torch.empty(0, dtype=torch.long)

    def seat(self, labels: NDArray[np.intp]) -> None:
        """Gives the rows of the next batches their places by their labels [batch], not negative.

        As many labels that follow each other share a block.
        """
        if np.array_equal(labels, self._labels):
            return  # from one step to the next they mostly stay
        self._labels, places = labels, labels % _ROWS
        taken = np.zeros(_ROWS, np.intp)
        for row, place in enumerate(places.tolist()):
            places[row] += _ROWS * taken[place]
            taken[place] += 1
        self._places, self._n_blocks = torch.from_numpy(places), int(taken.max())

    def compute(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """The function of inputs [batch, ...], [batch, ...]; it must treat every row by itself."""
        seated = [self._seated(rows) for rows in inputs]
        with _one_thread():
            parts = [function(*blocks) for blocks in zip(*seated, strict=True)]
        return (torch.cat(parts) if len(parts) > 1 else parts[0])[self._places]

    def _seated(self, rows: Tensor) -> Tensor:
        """Rows [batch, ...] in their blocks, [blocks, rows, ...]; zero where nobody sits."""
        places = rows.new_zeros(self._n_blocks * _ROWS, *rows.shape[1:])
        return places.index_copy_(0, self._places, rows).view(-1, _ROWS, *rows.shape[1:])


class FixedBlockAgent:
    """An agent whose mean, or likeliest, action in an episode does not depend on those beside it.

    Args:
        agent: The policy.
        blocks: Where the rows sit.
    """

    def __init__(self, agent: UDRLAgent, blocks: FixedBlocks) -> None:
        self.agent, self.blocks, self.action_low = agent, blocks, agent.action_low

    @torch.no_grad()
    def sample(
        self,
        state: Tensor,
        command: Tensor,
        deterministic: bool = True,
        generator: Generators = None,
    ) -> Tensor:
        """Actions [batch, action_dim]: see `UDRLAgent.sample`."""
        own: dict[str, Any] = {} if generator is None else {"generator": generator}
        act = partial(self.agent.sample, deterministic=deterministic, **own)
        return self.blocks.compute(act, state, command)


class FixedBlockShield:
    """A shield whose verdict and projection do not depend on the episodes beside.

    A request that is not supported is projected by itself, at a call each: how many others there
    are changes from step to step.

    Not so with the solver dopri5: it chooses its steps for a whole batch, so that the verdict on a
    row depends, within the solver's tolerance, on the rows beside it.

    Args:
        shield: A calibrated shield.
        blocks: Where the rows sit.
    """

    def __init__(self, shield: BaseShield, blocks: FixedBlocks) -> None:
        self.shield, self.blocks = shield, blocks

    @torch.no_grad()
    def project_in_detail(self, state: Tensor, command: Tensor) -> Projection:
        """Replaces unsupported commands: see `BaseShield.project_in_detail`."""
        score = self.blocks.compute(self.shield.score, state, command)
        supported = score >= self.blocks.compute(self.shield.limits, state)
        result = Projection(command.clone(), score, torch.zeros_like(score), ~supported, supported)
        with _one_thread():
            for row in (~supported).nonzero().squeeze(1).tolist():
                alone = self.shield.project_in_detail(state[[row]], command[[row]])
                for rows, value in zip(result, alone, strict=True):
                    rows[row] = value[0]
        return result


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
