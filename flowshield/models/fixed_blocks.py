"""Agents and shields whose answer for a row does not depend on the other rows of its batch."""

__all__ = ["BLOCK", "FixedBlockAgent", "FixedBlockShield"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from flowshield.models.agent import UDRLAgent
from flowshield.models.shields.base import BaseShield
from flowshield.models.shields.projection import Projection

# A matrix product of another size may be computed by another kernel, and a row that starts at
# another alignment by another branch of it: the sums then end in other bits. So every call has this
# many rows, and who wants a row's answer repeated gives it the same place again.
BLOCK = 16
"""Rows of one call of the network."""


class FixedBlockAgent:
    """An agent that gives a row at one place of a block the same action, to the bit, every time.

    Batches are whole blocks of `BLOCK` rows, and the network sees one block at a time, on one
    thread. What the other rows hold, also NaN where there is no row, changes nothing: a product of
    matrices of one size does the same to a row whatever the others are. Another kind of processor
    or another release of torch may give other bits.

    Args:
        agent: The policy.
    """

    def __init__(self, agent: UDRLAgent) -> None:
        self.agent, self.action_low = agent, agent.action_low

    @torch.no_grad()
    def sample(self, state: Tensor, command: Tensor, deterministic: bool = True) -> Tensor:
        """Actions [batch, action_dim]: see `UDRLAgent.sample`."""

        def act(state: Tensor, command: Tensor) -> Tensor:
            return self.agent.sample(state, command, deterministic=deterministic)

        return _block_by_block(act, state, command)


class FixedBlockShield:
    """A shield that judges and projects a row at one place of a block the same way every time.

    Verdicts are reached as `FixedBlockAgent` acts. A request that is not supported is projected by
    itself, at a call each: how many others there are changes from step to step. A row whose state
    is NaN is none, and passes.

    Not so for a shield with the solver dopri5: it chooses its steps for a whole batch, so that the
    verdict on a row depends, within the solver's tolerance, on the rows beside it.

    Args:
        shield: A calibrated shield.
    """

    def __init__(self, shield: BaseShield) -> None:
        self.shield = shield

    @torch.no_grad()
    def project_in_detail(self, state: Tensor, command: Tensor) -> Projection:
        """Replaces unsupported commands: see `BaseShield.project_in_detail`."""
        score = _block_by_block(self.shield.score, state, command)
        limits = _block_by_block(self.shield.limits, state)
        supported = (score >= limits) | state.isnan().any(dim=1)
        result = Projection(command.clone(), score, torch.zeros_like(score), ~supported, supported)
        with _one_thread():
            for row in (~supported).nonzero().squeeze(1).tolist():
                alone = self.shield.project_in_detail(state[row : row + 1], command[row : row + 1])
                for rows, value in zip(result, alone, strict=True):
                    rows[row] = value[0]
        return result


def _block_by_block(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    n = len(inputs[0])
    assert n % BLOCK == 0, f"expected whole blocks of {BLOCK} rows, got {n} rows"
    starts = range(0, n, BLOCK)
    with _one_thread():
        # a copy of each block: a slice of a batch would start at an alignment of its own
        return torch.cat([function(*(x[i : i + BLOCK].clone() for x in inputs)) for i in starts])


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
