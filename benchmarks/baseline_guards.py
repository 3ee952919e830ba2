"""Guards without an outcome model, for comparison: a clip of the return, and an expectile target.

Each is a `flowshield.models.Guard`, asked at every step.
"""

__all__ = ["ExpectileTarget", "ReturnCap", "expectile_loss"]

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from flowshield.models.policy import Decision
from flowshield.models.standardizer import Standardizer

_BATCH = 256


class ReturnCap:
    """Clips a command to what the data hold, whatever the state.

    The horizon is at most the data's longest, and the return at most the highest of the data's
    commands with that horizon or a shorter one.

    Args:
        commands: Of all training steps [n, 2], steps and raw return.
    """

    name, every = "clip", 1

    def __init__(self, commands: ArrayLike) -> None:
        known = np.asarray(commands, dtype=np.float64)
        known = known[np.argsort(known[:, 0], kind="stable")]
        self._horizons = torch.from_numpy(known[:, 0].copy())
        self._highest = torch.from_numpy(np.maximum.accumulate(known[:, 1]))

    def settings(self) -> dict[str, Any]:
        """What results keep of it."""
        return {"kind": self.name}

    def decide(self, state: Tensor, request: Tensor, command: Tensor) -> Decision:
        """Clips what is carried out."""
        horizon = command[:, 0].double().clamp(max=self._horizons[-1])
        place = torch.searchsorted(self._horizons, horizon.contiguous(), right=True) - 1
        highest = self._highest[place.clamp(min=0)]
        clipped = torch.stack([horizon, torch.minimum(command[:, 1].double(), highest)], dim=1)
        clipped = clipped.to(command)
        return Decision(clipped, (clipped != command).any(dim=1))


class ExpectileTarget:
    """Lowers a return to the highest that the data support at the state: an upper expectile.

    After Reinformer (Zhuang et al. 2024, arXiv 2405.08740): a small network regresses the returns
    to go on the states, with errors below weighed by tau and errors above by 1 - tau. Near tau = 1
    that is the highest return seen at such states. Horizons are left alone.

    Args:
        state_dim: Size of a state.
        tau: Of the expectile, in (0.5, 1).
        hidden_dim: Width of the two layers.
    """

    name, every = "expectile", 1

    def __init__(self, state_dim: int, tau: float = 0.99, hidden_dim: int = 128) -> None:
        self.tau = tau
        self._states, self._returns = Standardizer(state_dim), Standardizer(1)
        self._net = nn.Sequential(
            nn.Linear(state_dim, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, 1),
        )

    def fit(self, states: Tensor, returns: Tensor, *, n_steps: int = 3000, seed: int = 0) -> Self:
        """Regresses returns to go [n] on raw states [n, state_dim]."""
        self._states.fit(states)
        self._returns.fit(returns.unsqueeze(1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in self._net:
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = self._states(states), self._returns(returns.unsqueeze(1)).float()
        adam = torch.optim.Adam(self._net.parameters(), lr=1e-3)
        for _ in range(n_steps):
            rows = torch.randint(len(inputs), (_BATCH,), generator=generator)
            loss = expectile_loss(targets[rows] - self._net(inputs[rows]), self.tau)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        return self

    @torch.no_grad()
    def target(self, state: Tensor) -> Tensor:
        """The highest return to go that the data support at states, raw reward [batch]."""
        return self._returns.inverse(self._net(self._states(state))).squeeze(1)

    def settings(self) -> dict[str, Any]:
        """What results keep of it."""
        return {"kind": self.name, "tau": self.tau}

    def decide(self, state: Tensor, request: Tensor, command: Tensor) -> Decision:
        """Lowers what is left of the request, anew at each step."""
        lowered = torch.minimum(request[:, 1], self.target(state).to(request))
        chosen = torch.stack([request[:, 0], lowered], dim=1)
        return Decision(chosen, lowered < request[:, 1])


def expectile_loss(error: Tensor, tau: float) -> Tensor:
    """Mean of squared errors target - prediction, weighed by tau above 0 and 1 - tau below."""
    weight = torch.where(error > 0, tau, 1.0 - tau)
    return (weight * error * error).mean()
