"""Split-conformal thresholds: a false-alarm rate that holds for any score and any distribution."""

__all__ = [
    "UNITS",
    "Calibration",
    "EpisodeData",
    "ExchangeablePairs",
    "conformal_threshold",
    "episodes_needed",
]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from flowshield.counted import counted
from flowshield.errors import ConfigError, DataError
from flowshield.models.shields.groups import StateGroups

UNITS = ("step", "episode")
_CONFIDENCE = 0.95


class EpisodeData(Protocol):
    """Whole episodes laid end to end, as a `TrajectoryDataset` holds them."""

    @property
    def states(self) -> NDArray[Any]:
        """[N, state_dim], raw."""

    @property
    def commands(self) -> NDArray[Any]:
        """[N, 2], what was fulfilled from each state: steps and raw return."""

    @property
    def episode_starts(self) -> NDArray[Any]:
        """Index of each episode's first step, [E]."""

    @property
    def episode_lengths(self) -> NDArray[Any]:
        """Number of steps of each episode, [E]."""


@dataclass(frozen=True)
class ExchangeablePairs:
    """Pairs (state, command) that depend on each other in no way: each its own episode of one step.

    Attributes:
        states: [n, state_dim], raw.
        commands: [n, 2], steps and raw return.
    """

    states: NDArray[Any]
    commands: NDArray[Any]

    @property
    def episode_starts(self) -> NDArray[np.int64]:
        """[n]."""
        return np.arange(len(self.states))

    @property
    def episode_lengths(self) -> NDArray[np.int64]:
        """[n], all 1."""
        return np.ones(len(self.states), dtype=np.int64)


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and the promise that holds for them.

    With `unit` "step": take a new episode that is exchangeable with the calibration episodes and
    draw one of its steps at random. The command that it fulfilled from there is flagged with
    probability at most `alpha`. With "episode": the new episode is flagged *at all*, anywhere, on
    the commands that it fulfilled from its own steps, with probability at most `alpha`.

    With several groups (Mondrian conformal prediction, Vovk et al. 2003) each has a threshold of
    its own and the promise holds in each: for a random one of the episode's steps *in that group*,
    or for an alarm anywhere in that group, given that the episode visits it at all.

    The probability is over the calibration episodes and the new one together. For these very
    calibration episodes the realised rate is drawn from Beta(k, n + 1 - k) (Vovk 2012, arXiv
    1209.2673; where scores tie it is less): `intervals` holds its middle 95%.

    Attributes:
        alpha: The false-alarm rate.
        unit: "step" or "episode".
        score: Which score the thresholds are for, "density" or "achievability".
        groups: The groups of states.
        thresholds: Least supported score of each group, [k].
        n: Calibration scores of each group, [k].
        intervals: (low, high) of the realised rate of each group, [k].
        scores: Calibration scores of each group, rising, float64 on the CPU.
    """

    alpha: float
    unit: str
    score: str
    groups: StateGroups
    thresholds: tuple[float, ...]
    n: tuple[int, ...]
    intervals: tuple[tuple[float, float], ...]
    scores: tuple[Tensor, ...]

    @classmethod
    def of_scores(
        cls, scores: Sequence[Tensor], alpha: float, *, unit: str, score: str, groups: StateGroups
    ) -> "Calibration":
        """Sets the thresholds from the calibration scores of each group.

        Raises:
            DataError: See `conformal_threshold`; the message names the group.
        """
        thresholds = tuple(
            _threshold_of_group(group, alpha, i, len(scores)) for i, group in enumerate(scores)
        )
        return cls(
            alpha,
            unit,
            score,
            groups,
            thresholds,
            tuple(len(group) for group in scores),
            tuple(realised_rate_interval(len(group), alpha) for group in scores),
            tuple(group.double().cpu().sort().values for group in scores),
        )

    def at(self, alpha: float) -> "Calibration":
        """The same scores' thresholds for another false-alarm rate."""
        return Calibration.of_scores(
            self.scores, alpha, unit=self.unit, score=self.score, groups=self.groups
        )

    def suffices(self, alpha: float) -> bool:
        """Whether this rate can be promised in every group: whether `at` gives thresholds.

        It takes scores enough, and that no more than a share alpha of them is -inf.
        """
        ranks = (_rank(n, alpha) for n in self.n)
        return all(
            k >= 1 and float(scores[k - 1]) > -math.inf
            for k, scores in zip(ranks, self.scores, strict=True)
        )

    def limits(self, states: Tensor) -> Tensor:
        """The threshold of each standardized state [batch, state_dim]'s group, float64 [batch]."""
        thresholds = torch.tensor(self.thresholds, dtype=torch.float64, device=states.device)
        return thresholds[self.groups.assign(states)]

    def __str__(self) -> str:
        """One sentence: what is promised, for what, and how sure it is for this calibration."""
        low, high = min(i[0] for i in self.intervals), max(i[1] for i in self.intervals)
        what = {
            "step": "one random step of a new episode is flagged",
            "episode": "a new episode is flagged at all, on any command that it fulfilled,",
        }[self.unit]
        where, n = "", counted(self.n[0], "calibration episode")
        if len(self.groups) > 1:
            where = f" in each of {len(self.groups)} groups of states that it visits"
            n = f"{min(self.n)} to {max(self.n)} calibration episodes a group"
        return (
            f"{what} with probability at most {self.alpha:.2g}{where} "
            f"({n}; 95% interval of the realised rate: {low:.3f} to {high:.3f})"
        )

    def payload(self) -> dict[str, Any]:
        """The calibration as plain containers and tensors, for a file."""
        return {
            "alpha": self.alpha,
            "unit": self.unit,
            "score": self.score,
            "centers": self.groups.centers,
            "thresholds": list(self.thresholds),
            "n": list(self.n),
            "intervals": [list(interval) for interval in self.intervals],
            "scores": list(self.scores),
        }

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> "Calibration":
        """Rebuilds a calibration from `payload`.

        Raises:
            DataError: A threshold is NaN or -inf, below which nothing lies: it would pass all.
        """
        if not all(threshold > -math.inf for threshold in payload["thresholds"]):
            raise DataError(f"expected thresholds that flag something: {payload['thresholds']}")
        return cls(
            payload["alpha"],
            payload["unit"],
            payload["score"],
            StateGroups(payload["centers"].cpu()),
            tuple(payload["thresholds"]),
            tuple(payload["n"]),
            tuple((low, high) for low, high in payload["intervals"]),
            tuple(scores.cpu() for scores in payload["scores"]),
        )


def episodes_needed(alpha: float) -> int:
    """The fewest calibration scores for which a rate of `alpha` can be promised."""
    return math.ceil(1.0 / alpha - 1e-9) - 1


def conformal_threshold(scores: Tensor, alpha: float) -> float:
    """The score below which a new exchangeable score falls with probability at most `alpha`.

    The k-th smallest calibration score, k = floor(alpha (n + 1)) (Vovk et al. 2005; Lei et al.
    2018, arXiv 1604.04173, sec. 2.2). The probability is over calibration set and new score
    together; for one given calibration set the realised rate is Beta(k, n + 1 - k).

    Args:
        scores: Calibration scores [n], exchangeable with the new one; low means suspicious.
        alpha: The false-alarm rate, in (0, 1).

    Returns:
        The threshold. A score is an alarm when it lies strictly below.

    Raises:
        DataError: alpha is outside (0, 1), a score is NaN, there are too few scores for alpha, or
            more than alpha of them could not be computed (-inf): that threshold would pass all.
    """
    if not 0.0 < alpha < 1.0:
        raise DataError(f"expected a false-alarm rate alpha in (0, 1), got {alpha}")
    if bool(torch.isnan(scores).any()):
        raise DataError(f"{int(torch.isnan(scores).sum())} of {len(scores)} scores are NaN")
    k = _rank(len(scores), alpha)
    if k < 1:
        raise DataError(
            f"a false-alarm rate of {alpha:g} needs at least "
            f"{counted(episodes_needed(alpha), 'calibration episode')}, got {len(scores)}: collect "
            "more episodes or raise alpha"
        )
    threshold = float(scores.double().sort().values[k - 1])
    if threshold == -math.inf:
        raise DataError(
            f"{int((scores == -math.inf).sum())} of {len(scores)} calibration scores are -inf, so "
            f"that no threshold promises a false-alarm rate of {alpha:g}: the model's log_prob is "
            "not finite there; train it again or look at the data's extremes"
        )
    return threshold


def realised_rate_interval(n: int, alpha: float) -> tuple[float, float]:
    """The middle 95% of the realised rate, Beta(k, n + 1 - k), given one set of n scores."""
    k = _rank(n, alpha)
    tail = (1 - _CONFIDENCE) / 2
    return float(betaincinv(k, n + 1 - k, tail)), float(betaincinv(k, n + 1 - k, 1 - tail))


def highest_expected_rate(n: int, alpha: float, n_new: int) -> float:
    """The upper end of the middle 95% of the rate that is *counted* on new scores.

    Beta-binomial with k and n + 1 - k: n_new draws at a rate that is itself drawn (Marques F. 2023,
    arXiv 2303.02770). A calibration that holds shows more once in 40 times at most.

    Args:
        n: Calibration scores.
        alpha: The rate that is promised.
        n_new: New scores, exchangeable with them, at least 1.
    """
    # here, for it takes as long to import as torch, and no worker of Ray's calibrates
    from scipy.stats import betabinom  # type: ignore[attr-defined]  # made at run time

    k = _rank(n, alpha)
    return float(betabinom.ppf((1 + _CONFIDENCE) / 2, n_new, k, n + 1 - k)) / n_new


def calibration_scores(
    score: Callable[[NDArray[np.int64]], Tensor],
    groups: NDArray[np.int64],
    dataset: EpisodeData,
    unit: str,
    n_groups: int,
    seed: int,
) -> list[Tensor]:
    """The scores from which each group's threshold is taken.

    Args:
        score: Gives the scores of the commands at steps [m], [m].
        groups: The group of every step, [N].
        dataset: The episodes.
        unit: One of `UNITS`.
        n_groups: Number of groups.
        seed: Of the draw of steps.

    Returns:
        One tensor a group, with one score for each episode that visits it.

    Raises:
        ConfigError: The unit is unknown.
    """
    if unit not in UNITS:
        raise ConfigError(f"unit: expected one of {', '.join(UNITS)}, got {unit!r}")
    episodes = np.repeat(np.arange(len(dataset.episode_lengths)), dataset.episode_lengths)
    visits = episodes * n_groups + groups  # which episode, in which group
    if unit == "step":
        steps = _one_of_each(visits, seed)
        scores = score(steps)
    else:
        scores, visits = _least_of_each(score(np.arange(len(visits))), visits)
        return _by_group(scores, visits % n_groups, n_groups)
    return _by_group(scores, groups[steps], n_groups)


def _one_of_each(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The index of one random entry of every label."""
    order = np.random.default_rng(seed).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    chosen: NDArray[np.int64] = order[first]
    return chosen


def _least_of_each(scores: Tensor, labels: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
    """The lowest score of every label, and the labels."""
    different, index = np.unique(labels, return_inverse=True)
    least = torch.full((len(different),), math.inf, dtype=scores.dtype)
    least.scatter_reduce_(0, torch.from_numpy(index), scores.cpu(), "amin")
    return least, different


def _by_group(scores: Tensor, groups: NDArray[np.int64], n_groups: int) -> list[Tensor]:
    index = torch.from_numpy(groups)
    return [scores.cpu()[index == group] for group in range(n_groups)]


def _threshold_of_group(scores: Tensor, alpha: float, group: int, n_groups: int) -> float:
    try:
        return conformal_threshold(scores, alpha)
    except DataError as error:
        if n_groups == 1:
            raise
        raise DataError(
            f"group {group + 1} of {n_groups} groups of states: {error}, or ask for fewer groups"
        ) from error


def _rank(n: int, alpha: float) -> int:
    return math.floor(alpha * (n + 1) + 1e-9)
