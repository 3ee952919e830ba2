"""The worth of an outcome to the user who gave the command: intent, utility, regret, range."""

__all__ = ["INTENTS", "Intent", "regret", "return_range"]

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowshield.errors import ConfigError, DataError, ShapeError, unknown_name
from flowshield.models.scale import spread

INTENTS: Final = ("at_least", "exact")
_RANGE: Final = (0.01, 0.99)  # quantiles: a glitch in a hundred episodes does not set the unit


@dataclass(frozen=True)
class Intent:
    """What a user wants of a command (H, R), and so what an outcome is worth.

    An outcome is the return G that an episode got, in T steps. Its utility u, in raw reward, is

    - `at_least`: u = min(G, R). More than was asked is worth no more, and steps are free.
    - `exact`: u = -|G - R| - step_cost max(T - H, 0).

    Both are a function of G plus a function of T. So the expected utility follows from the law of
    G and the law of T; how the two depend on each other does not matter. Failure is no part of
    the utility: it is counted on its own.

    Attributes:
        kind: "at_least" or "exact".
        step_cost: Raw reward lost per step later than asked; `exact` only.

    Raises:
        ConfigError: `kind` is unknown, or `step_cost` is negative, not finite, or not 0 where the
            kind is `at_least`.
    """

    kind: str = "at_least"
    step_cost: float = 0.0

    def __post_init__(self) -> None:
        """Checks both attributes."""
        if self.kind not in INTENTS:
            raise unknown_name("intent", self.kind, INTENTS)
        if not 0 <= self.step_cost < math.inf:
            raise ConfigError(f"expected a finite step_cost >= 0, got {self.step_cost}")
        if self.kind == "at_least" and self.step_cost:
            raise ConfigError(
                f"expected step_cost 0 for the intent at_least, got {self.step_cost}: only exact "
                "counts steps"
            )

    @classmethod
    def of_data(cls, kind: str, returns: ArrayLike, lengths: ArrayLike) -> "Intent":
        """Takes the cost of a step from the data: a spread of steps is worth a spread of returns.

        Args:
            kind: "at_least" or "exact".
            returns: Of whole episodes, raw reward [n].
            lengths: Of the same episodes, steps [n]. Where they are all equal, "within H" cannot be
                told apart, and a step costs nothing.

        Raises:
            ConfigError: `kind` is unknown.
            DataError: There is no episode, or an entry is NaN or infinite.
            ShapeError: The arguments are not [n] of one n.
        """
        g, t = _episodes("returns", returns), _episodes("lengths", lengths)
        if g.size != t.size:
            raise ShapeError(f"expected one length per return, got {t.size} and {g.size}")
        steps = spread(t)
        counted = kind == "exact" and steps > 0
        return cls(kind, spread(g) / steps if counted else 0.0)

    def utility(self, returns: Tensor, steps: Tensor, command: Tensor) -> Tensor:
        """Utility of outcomes, raw reward [...]; NaN where the outcome is NaN.

        Args:
            returns: G, raw reward [...].
            steps: T [...].
            command: (H, R) asked [..., 2]; all three broadcast.

        Raises:
            ShapeError: The last dimension of `command` is not 2.
        """
        horizon, asked = _parts(command)
        return self.return_part(returns, asked) + self.step_part(steps, horizon)

    def expected_utility(
        self, return_quantiles: Tensor, step_quantiles: Tensor, command: Tensor
    ) -> Tensor:
        """Mean utility of predicted outcomes, raw reward [...].

        Args:
            return_quantiles: Quantiles of G [..., levels], raw reward, at equally spaced levels
                such as (k + 1/2) / levels, or draws of G.
            step_quantiles: The same of T [..., levels]; it may have other levels.
            command: (H, R) asked [..., 2].

        Raises:
            ShapeError: The last dimension of `command` is not 2.
        """
        horizon, asked = _parts(command)
        of_return = self.return_part(return_quantiles, asked.unsqueeze(-1)).mean(-1)
        return of_return + self.step_part(step_quantiles, horizon.unsqueeze(-1)).mean(-1)

    def return_part(self, returns: Tensor, asked: Tensor) -> Tensor:
        """The part of the utility that G decides, raw reward [...].

        Args:
            returns: G [...].
            asked: R [...]; both broadcast.
        """
        if self.kind == "at_least":
            return torch.minimum(returns, asked)
        return -(returns - asked).abs()

    def step_part(self, steps: Tensor, horizon: Tensor) -> Tensor:
        """The part of the utility that T decides, raw reward [...]; 0 where steps are free.

        Args:
            steps: T [...].
            horizon: H [...]; both broadcast.
        """
        return -self.step_cost * (steps - horizon).clamp(min=0)


def regret(utilities: Tensor, got: Tensor) -> Tensor:
    """Utility that the best candidate would have got beyond what was got, raw reward [...].

    Args:
        utilities: Of the candidates for one start and command [..., candidates].
        got: Utility that was got [...].
    """
    return utilities.amax(-1) - got


def return_range(returns: ArrayLike) -> float:
    """The unit of the harm that a certificate allows: the data's range of returns, raw reward.

    The range from the 1% to the 99% quantile, so that a few glitches do not count; the whole range
    where that is 0. It is 0 only where all returns are equal.

    Args:
        returns: Of whole episodes [n].

    Raises:
        DataError: There is no episode, or an entry is NaN or infinite.
        ShapeError: `returns` is not [n].
    """
    g = _episodes("returns", returns)
    low, high = np.quantile(g, _RANGE)
    return float(high - low) or float(np.ptp(g))


def _parts(command: Tensor) -> tuple[Tensor, Tensor]:
    if command.ndim == 0 or command.shape[-1] != 2:
        raise ShapeError(f"command: expected (H, R) of shape [..., 2], got {list(command.shape)}")
    return command[..., 0], command[..., 1]


def _episodes(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ShapeError(f"expected {name} of shape [n], got {list(array.shape)}: one per episode")
    if not array.size or not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise DataError(
            f"expected {name} of at least one episode, all finite; got {array.size}, of which "
            f"{bad} are NaN or infinite: remove those episodes"
        )
    return array
