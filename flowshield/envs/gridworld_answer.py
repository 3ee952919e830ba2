"""Backward induction: the exact joint distribution of horizon and whole return in each cell."""

__all__ = ["ExactFrontier", "GridworldAnswer"]

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, ndtr

from flowshield.envs.known_answer import KnownAnswer
from flowshield.errors import ConfigError, DataError

_ROUNDING = 1e-3  # of the distance between two states: who is no further from one is there

Step = tuple[int | None, float, int]
"""Where a step ends (an index, None = the episode is over), how probably, and its reward."""


class ExactFrontier(NamedTuple):
    """The most that can be asked for within each horizon.

    Attributes:
        horizons: Steps [m].
        returns: Highest whole return at each [m]; -inf where not even the lowest is likely enough.
    """

    horizons: NDArray[np.intp]
    returns: NDArray[np.float64]


class GridworldAnswer(KnownAnswer):
    """p(H = h, R = r | s) of a Markov chain with few states and whole rewards.

    Backwards from the end: p_h(s, r) = sum over s' of P(s' | s) p_(h-1)(s', r - reward(s, s')),
    where the end pays at once: p_1(s, r) = P(the episode ends with reward r | s).

    Args:
        states: The states [k, state_dim].
        steps: For each state its possible steps.
        max_horizon: Step limit; the induction stops there.
        return_noise: Standard deviation of the noise on returns, raw reward.
    """

    def __init__(
        self,
        states: NDArray[np.float32],
        steps: Sequence[Sequence[Step]],
        max_horizon: int,
        return_noise: float = 1.0,
    ) -> None:
        super().__init__(states.shape[1], max_horizon, return_noise)
        self._states = states.astype(np.float64)
        apart = np.abs(self._states[:, None] - self._states).max(axis=2)
        self._spacing = float(apart[apart > 0].min(initial=np.inf))
        self._steps = steps
        # A return of h steps is at least low * (h - 1) + low_end; and the ranges shall nest.
        on = [0, *(reward for ways in steps for target, _, reward in ways if target is not None)]
        end = [reward for ways in steps for target, _, reward in ways if target is None]
        self._low, self._high = min(on), max(on)
        self._low_end, self._high_end = min(end), max(end)
        self._tables = list(self._induction())

    def pmf(self, state: ArrayLike, horizon: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """p(H = horizon, R = r | s) of every whole return r.

        Args:
            state: One state [state_dim].
            horizon: Steps, in 1..max_horizon.

        Returns:
            (returns [w], probabilities [w]).
        """
        if not 1 <= horizon <= self.max_horizon:
            raise ConfigError(f"expected a horizon in 1..{self.max_horizon}, got {horizon}")
        return self._returns(horizon), self._tables[horizon - 1][self._index_of_one(state)].copy()

    def log_prob(self, states: ArrayLike, commands: ArrayLike) -> NDArray[np.float64]:
        """As `KnownAnswer.log_prob`: a mixture of Gaussians around the whole returns of a bin."""
        values, pairs = self._as_pairs(states, commands)
        places, bins = self._index(values), self._whole_horizons(pairs[:, 0])
        result = np.full(len(pairs), -np.inf)
        for h in np.unique(bins[bins > 0]).tolist():
            rows = np.flatnonzero(bins == h)
            deviations = (pairs[rows, 1:] - self._returns(h)) / self.return_noise
            with np.errstate(divide="ignore"):  # a return that cannot be has log p = -inf
                log_pmf = np.log(self._tables[h - 1][places[rows]])
            result[rows] = logsumexp(log_pmf - 0.5 * deviations**2, axis=1)
        constant: float = np.log(self.return_noise * np.sqrt(2.0 * np.pi))
        return result - constant

    def sample(self, states: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """As `KnownAnswer.sample`."""
        places = self._index(self._as_states(states))
        result = np.empty((len(places), 2))
        for place in np.unique(places).tolist():
            rows = np.flatnonzero(places == place)
            weights = np.concatenate([table[place] for table in self._tables])
            drawn = rng.choice(len(weights), size=len(rows), p=weights / weights.sum())
            sizes = np.cumsum([table.shape[1] for table in self._tables])
            h = np.searchsorted(sizes, drawn, side="right")
            result[rows, 0] = h + 1
            result[rows, 1] = drawn - np.append(0, sizes)[h] + self._low * h + self._low_end
        return result

    def achievability(
        self, states: ArrayLike, commands: ArrayLike, *, noisy: bool = False
    ) -> NDArray[np.float64]:
        """As `KnownAnswer.achievability`: the sum of p over all that is at least as good."""
        values, pairs = self._as_pairs(states, commands)
        places, allowed = self._index(values), self._steps_allowed(pairs[:, 0])
        result = np.zeros(len(pairs))
        returns = self._returns(self.max_horizon)
        for h, within in self._within():
            rows = np.flatnonzero(allowed == h)
            if len(rows):
                surplus = returns - pairs[rows, 1:]
                good = ndtr(surplus / self.return_noise) if noisy else surplus >= 0
                result[rows] = (within[places[rows]] * good).sum(axis=1)
        return result

    def reachable(self, state: ArrayLike) -> NDArray[np.intp]:
        """All (H, R) that have a positive probability from a state.

        An induction of its own over yes and no: probabilities of long detours underflow to 0.

        Args:
            state: One state [state_dim].

        Returns:
            Pairs [m, 2], by horizon and then by return; horizons up to `max_horizon`.
        """
        place, pairs = self._index_of_one(state), []
        for h, table in enumerate(self._induction(possible_only=True), start=1):
            returns = self._returns(h)[table[place] > 0]
            pairs.append(np.stack([np.full_like(returns, h), returns], axis=1))
        return np.concatenate(pairs)

    def frontier(
        self, state: ArrayLike, level: float, horizons: ArrayLike | None = None
    ) -> ExactFrontier:
        """For each horizon h the highest whole return R with P(R' >= R, H' <= h | s) >= level.

        Args:
            state: One state [state_dim].
            level: Least probability, in (0, 1).
            horizons: Whole steps [m], rising; None = 1..max_horizon.
        """
        if not 0.0 < level < 1.0:
            raise ConfigError(f"expected a level in (0, 1), got {level}")
        place = self._index_of_one(state)
        returns = self._returns(self.max_horizon)
        best = np.full(self.max_horizon, -np.inf)
        for h, within in self._within():
            at_least = np.cumsum(within[place, ::-1])[::-1]
            enough = np.flatnonzero(at_least >= level)
            if len(enough):
                best[h - 1] = returns[enough[-1]]
        asked = np.arange(1, self.max_horizon + 1) if horizons is None else np.asarray(horizons)
        if (asked < 1).any() or (asked > self.max_horizon).any() or (asked != asked.round()).any():
            raise ConfigError(f"expected whole horizons in 1..{self.max_horizon}, got {horizons!r}")
        return ExactFrontier(asked.astype(np.intp), best[asked.astype(np.intp) - 1])

    # ------------------------------------------------------------------

    def _returns(self, horizon: int) -> NDArray[np.intp]:
        """The whole returns [w] that a table of this horizon has columns for."""
        return np.arange(self._lowest(horizon), self._high * (horizon - 1) + self._high_end + 1)

    def _lowest(self, horizon: int) -> int:
        return self._low * (horizon - 1) + self._low_end

    def _induction(self, *, possible_only: bool = False) -> Iterator[NDArray[np.float64]]:
        """Tables [k, w] of h = 1, 2, ...: probabilities, or 1 where there is any, else 0."""
        previous: NDArray[np.float64] | None = None
        for h in range(1, self.max_horizon + 1):
            table = np.zeros((len(self._states), len(self._returns(h))))
            for place, ways in enumerate(self._steps):
                for target, probability, reward in ways:
                    if target is not None and previous is not None:
                        shift = reward - self._low
                        part = table[place, shift : shift + previous.shape[1]]
                        part += probability * previous[target]
                    elif target is None and h == 1:
                        table[place, reward - self._low_end] += probability
            previous = np.sign(table) if possible_only else table
            yield previous

    def _within(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """For h = 1, 2, ... the sum [k, w] of the tables up to h, with the last one's columns."""
        total = np.zeros((len(self._states), len(self._returns(self.max_horizon))))
        for h, table in enumerate(self._tables, start=1):
            first = self._low * (h - self.max_horizon)
            total[:, first : first + table.shape[1]] += table
            yield h, total

    def _index_of_one(self, state: ArrayLike) -> int:
        return int(self._index(self._as_states(np.atleast_2d(np.asarray(state))))[0])

    def _index(self, states: NDArray[np.float64]) -> NDArray[np.intp]:
        distances = np.abs(states[:, None] - self._states).max(axis=2)
        nearest: NDArray[np.intp] = distances.argmin(axis=1)
        far = distances[np.arange(len(states)), nearest] > _ROUNDING * self._spacing
        if far.any():
            raise DataError(
                f"{states[far][0].tolist()} is no state of this gridworld in which an episode goes "
                f"on; the first is {self._states[0].tolist()}"
            )
        return nearest
