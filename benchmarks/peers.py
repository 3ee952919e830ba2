"""Densities p(g | s) as others would write them, to hold the package's shields against.

They share nothing with the package. All of them see what the shields see: standardized states and
commands, dequantised alike (H + U(-1/2, 1/2), R + N(0, 1) in raw units). All are trained alike:
AdamW on batches of 1,024, its rate falling along a cosine to the end of the budget, the weights
of the best validation likelihood kept.

* `MixtureNetwork`: a plain mixture density network (Bishop 1994, NCRG/94/004).
* `ZukoSplineFlow`: an autoregressive neural spline flow (Durkan et al. 2019, arXiv 1906.04032)
  from the library zuko; it needs the extra `bench`.
"""

__all__ = ["PEERS", "MixtureNetwork", "Peer", "ZukoSplineFlow", "peers_here"]

import copy
import importlib.util
import math
import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[Any]

BATCH = 1024
VALIDATION_ROWS = 10_000  # at most: a random choice, the same at every check
CHECK_EVERY = 200  # steps
CHUNK = 8192  # rows of log_prob at a time


class Peer(nn.Module, ABC):
    """A density of commands given states; `state_dict` holds all that training found.

    Args:
        state_dim: Size of a state.
    """

    name = ""
    learning_rate = 1e-3
    weight_decay = 1e-2

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        for what, dim in (("state", state_dim), ("command", 2)):
            self.register_buffer(f"{what}_mean", torch.zeros(dim))
            self.register_buffer(f"{what}_std", torch.ones(dim))

    @abstractmethod
    def standard_log_prob(self, s: Tensor, g: Tensor) -> Tensor:
        """log p(g | s) of standardized commands [n, 2] at standardized states [n, d], [n] nats."""

    def fit(
        self,
        states: Array,
        commands: Array,
        validation_states: Array,
        validation_commands: Array,
        seed: int = 0,
        budget: float = 60.0,
    ) -> list[dict[str, float]]:
        """Trains by maximum likelihood.

        Args:
            states: [n, state_dim], raw.
            commands: [n, 2], whole steps and raw return.
            validation_states: [m, state_dim], of other episodes; they choose the weights.
            validation_commands: [m, 2].
            seed: Of batches and noise. The budget is in time: equal seeds need not end equal.
            budget: Processor seconds (another program's load does not shorten them).

        Returns:
            A record a validation: step, seconds, validation_loss in raw nats.
        """
        rng = torch.Generator().manual_seed(seed)
        s, g = _rows(states), _rows(commands)
        self._standardize(s, g)
        chosen = torch.randperm(len(validation_states), generator=rng)[:VALIDATION_ROWS].numpy()
        held_out = _rows(validation_states[chosen]), _rows(validation_commands[chosen])
        held_out = (held_out[0], _dequantized(held_out[1], rng))
        adam = torch.optim.AdamW(
            self.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        history: list[dict[str, float]] = []
        best, weights = math.inf, copy.deepcopy(self.state_dict())
        start, elapsed, step = time.process_time(), 0.0, 0
        while elapsed < budget:
            for group in adam.param_groups:
                group["lr"] = self.learning_rate * 0.5 * (1 + math.cos(math.pi * elapsed / budget))
            rows = torch.randint(len(s), (BATCH,), generator=rng)
            self._step(adam, s[rows], _dequantized(g[rows], rng))
            step, elapsed = step + 1, time.process_time() - start
            if step % CHECK_EVERY == 0 or elapsed >= budget:
                loss = -float(self._log_prob(*held_out).mean())
                history.append({"step": step, "seconds": elapsed, "validation_loss": loss})
                if loss < best:
                    best, weights = loss, copy.deepcopy(self.state_dict())
        self.load_state_dict(weights)
        return history

    def log_prob(self, state: Array, command: Array) -> NDArray[np.float64]:
        """log p(g | s), [n], nats per (step x raw return).

        Args:
            state: [n, state_dim], raw.
            command: [n, 2], steps and raw return; nothing is added to it.
        """
        return self._log_prob(_rows(state), _rows(command)).double().numpy()

    def _step(self, adam: torch.optim.Optimizer, s: Tensor, g: Tensor) -> None:
        adam.zero_grad()
        loss = -self.standard_log_prob(*self._standard(s, g)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        adam.step()

    @torch.no_grad()
    def _log_prob(self, s: Tensor, g: Tensor) -> Tensor:
        self.eval()
        pairs = zip(s.split(CHUNK), g.split(CHUNK), strict=True)
        found = torch.cat([self.standard_log_prob(*self._standard(*pair)) for pair in pairs])
        self.train()
        return found - self.command_std.log().sum()

    def _standardize(self, s: Tensor, g: Tensor) -> None:
        for what, x in (("state", s), ("command", g)):
            std, mean = torch.std_mean(x.double(), dim=0, correction=0)
            getattr(self, f"{what}_mean").copy_(mean)
            getattr(self, f"{what}_std").copy_(torch.where(std > 1e-6, std, 1.0))

    def _standard(self, s: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        return (
            (s - self.state_mean) / self.state_std,
            (g - self.command_mean) / self.command_std,
        )


class MixtureNetwork(Peer):
    """Twenty Gaussians with full covariance whose parameters a plain 3 x 256 network gives."""

    name = "mixture_network"
    components = 20

    def __init__(self, state_dim: int) -> None:
        super().__init__(state_dim)
        sizes = [state_dim, 256, 256, 256]
        hidden: list[nn.Module] = []
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            hidden += [nn.Linear(a, b), nn.SiLU()]
        self.network = nn.Sequential(*hidden, nn.Linear(sizes[-1], 6 * self.components))

    def standard_log_prob(self, s: Tensor, g: Tensor) -> Tensor:
        """See `Peer`."""
        weight, mean_h, mean_r, log_h, log_r, lower = self.network(s).chunk(6, dim=1)
        log_h, log_r = log_h.clamp(-7, 7), log_r.clamp(-7, 7)
        z_h = (g[:, :1] - mean_h) * (-log_h).exp()
        z_r = (g[:, 1:] - mean_r - lower * z_h) * (-log_r).exp()
        each = -0.5 * (z_h**2 + z_r**2) - log_h - log_r - math.log(2 * math.pi)
        return (weight.log_softmax(dim=1) + each).logsumexp(dim=1)


class ZukoSplineFlow(Peer):
    """zuko's neural spline flow with its usual settings: three transforms of eight bins."""

    name = "zuko_spline_flow"

    def __init__(self, state_dim: int) -> None:
        super().__init__(state_dim)
        import zuko

        self.flow = zuko.flows.NSF(
            features=2, context=state_dim, transforms=3, bins=8, hidden_features=(128, 128, 128)
        )

    def standard_log_prob(self, s: Tensor, g: Tensor) -> Tensor:
        """See `Peer`."""
        found: Tensor = self.flow(s).log_prob(g)
        return found


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (MixtureNetwork, ZukoSplineFlow)}


def peers_here() -> tuple[str, ...]:
    """Names of the peers whose packages are installed."""
    has_zuko = importlib.util.find_spec("zuko") is not None
    return tuple(name for name in PEERS if has_zuko or name != ZukoSplineFlow.name)


def _rows(values: Array) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def _dequantized(g: Tensor, rng: torch.Generator) -> Tensor:
    uniform = torch.rand(len(g), generator=rng) - 0.5
    return g + torch.stack([uniform, torch.randn(len(g), generator=rng)], dim=1)
