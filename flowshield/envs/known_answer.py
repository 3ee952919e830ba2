"""What it means that an environment knows p(H, R | s) exactly."""

__all__ = ["KnownAnswer"]

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.errors import DataError, ShapeError


class KnownAnswer(ABC):
    """The exact distribution of the commands (H, R) that an environment's own behaviour fulfils.

    H is the number of steps that remain including the next one, R the sum of their rewards, and
    the behaviour is the uniformly random one (`behaviour=random`). Shields model the dequantised
    command (H + U(-1/2, 1/2), R + N(0, 1) * return_noise); so does `log_prob`, which makes the
    two comparable to the last nat. Everything takes raw units.

    To test a shield of your own, train it on data from such an environment and ask how far it is
    from the truth:

        env = make_env("gridworld")
        dataset = DataCollector(env).collect(3000)
        shield = ...                                    # trained on some of the episodes
        evaluate_known_answer(shield, test_dataset)     # excess_nll, auroc, auroc_bayes, ...

    or compare with `env.known_answer.log_prob(states, commands)` yourself.

    Args:
        state_dim: Size of a state.
        max_horizon: Longest horizon that is counted; what lies beyond has a share below 1e-9.
        return_noise: Standard deviation of the noise on returns, raw reward. A shield that was
            trained with another is compared with `with_noise(shield.return_noise)`.

    Attributes:
        horizon_noise: Width of the uniform noise on horizons, steps: 1, always.

    Raises:
        DataError: `return_noise` is not above 0: without noise there may be no density.
    """

    horizon_noise: ClassVar[float] = 1.0

    def __init__(self, state_dim: int, max_horizon: int, return_noise: float = 1.0) -> None:
        if not return_noise > 0.0:
            raise DataError(f"a density needs return_noise > 0, got {return_noise}")
        self.state_dim = state_dim
        self.max_horizon = max_horizon
        self.return_noise = return_noise

    def with_noise(self, return_noise: float) -> Self:
        """The same law, dequantised with another noise on returns, raw reward.

        Raises:
            DataError: `return_noise` is not above 0.
        """
        other = copy.copy(self)
        KnownAnswer.__init__(other, self.state_dim, self.max_horizon, float(return_noise))
        return other

    @abstractmethod
    def log_prob(self, states: ArrayLike, commands: ArrayLike) -> NDArray[np.float64]:
        """log p of the dequantised command, [n], nats per (step x raw return).

        Args:
            states: [n, state_dim].
            commands: [n, 2], steps and raw return, with the noise or without.
        """

    @abstractmethod
    def sample(self, states: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draws one command (H, R) a state as an episode would fulfil it, without noise, [n, 2].

        Args:
            states: [n, state_dim].
            rng: Where the draws come from.
        """

    @abstractmethod
    def achievability(
        self, states: ArrayLike, commands: ArrayLike, *, noisy: bool = False
    ) -> NDArray[np.float64]:
        """P(R' >= R, H' <= H | s): how often the behaviour does at least what is asked, [n].

        Args:
            states: [n, state_dim].
            commands: [n, 2], steps and raw return; H may be infinite, R -inf.
            noisy: Whether R' carries the return noise, as in the data that a shield sees.
        """

    def dequantize(self, commands: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """Adds the noise of the density to commands [n, 2]."""
        values = _as_rows(commands, 2, "commands")
        noise = [
            self.horizon_noise * (rng.random(len(values)) - 0.5),
            self.return_noise * rng.standard_normal(len(values)),
        ]
        dequantized: NDArray[np.float64] = values + np.stack(noise, axis=1)
        return dequantized

    def _as_states(self, states: ArrayLike) -> NDArray[np.float64]:
        return _as_rows(states, self.state_dim, "states")

    def _as_pairs(
        self, states: ArrayLike, commands: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        checked, pairs = self._as_states(states), _as_rows(commands, 2, "commands")
        if len(checked) != len(pairs):
            raise ShapeError(
                f"expected a state for each command, got {len(checked)} and {len(pairs)}"
            )
        return checked, pairs

    def _whole_horizons(self, horizons: NDArray[np.float64]) -> NDArray[np.intp]:
        """The horizons whose unit-wide bins hold these values, 0 where no episode gets there."""
        bins = np.floor(horizons + 0.5)
        inside = (bins >= 1) & (bins <= self.max_horizon)
        return np.where(inside, bins, 0).astype(np.intp)

    def _steps_allowed(self, horizons: NDArray[np.float64]) -> NDArray[np.intp]:
        """How many whole steps fit into each horizon, at most `max_horizon`."""
        return np.clip(np.floor(horizons), 0, self.max_horizon).astype(np.intp)


def _as_rows(values: Any, width: int, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != width:
        raise ShapeError(f"expected {name} [n, {width}], got shape {list(array.shape)}")
    if np.isnan(array).any():
        raise DataError(f"expected numbers in {name}, got {int(np.isnan(array).sum())} NaN")
    return array
