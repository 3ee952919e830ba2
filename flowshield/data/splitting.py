"""Splits episodes into parts by share."""

__all__ = ["episodes_for", "split_positions"]

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flowshield.counted import counted
from flowshield.data.seeding import check_seed
from flowshield.errors import ConfigError, DataError


def split_positions(
    n_episodes: int, shares: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.intp]]:
    """Splits the positions 0..n_episodes-1 at random.

    Args:
        n_episodes: Number of episodes.
        shares: Share of the episodes by the name of the part; the shares sum to one.
        seed: Seed of the permutation.

    Returns:
        Ascending positions by the name of the part; every position is in exactly one of them.

    Raises:
        ConfigError: A share is not positive, or they do not sum to one.
        DataError: A part would get no episode.
    """
    values = np.array([float(share) for share in shares.values()])
    if not values.size or not (values > 0).all() or abs(values.sum() - 1) > 1e-6:
        raise ConfigError(f"expected shares > 0 that sum to 1, got {dict(shares)}")
    cuts = _cuts(n_episodes, values)
    order = np.random.default_rng(check_seed(seed)).permutation(n_episodes)
    parts = dict(zip(shares, np.split(order, cuts[:-1]), strict=True))
    empty = [name for name, part in parts.items() if not len(part)]
    if empty:
        raise DataError(
            f"{counted(n_episodes, 'episode is', 'episodes are')} too few for the shares "
            f"{dict(shares)}: "
            f"{', '.join(empty)} would get none; collect more or change the shares"
        )
    return {name: np.sort(part) for name, part in parts.items()}


def episodes_for(n_wanted: int, part: str, shares: Mapping[str, float]) -> int:
    """The number of episodes from which on a part gets at least so many of them.

    Args:
        n_wanted: Episodes of the part, at least 1.
        part: Its name.
        shares: As for `split_positions`.
    """
    values = np.array([float(share) for share in shares.values()])
    place = list(shares).index(part)

    def suffices(n_episodes: int) -> bool:
        size = np.diff(_cuts(n_episodes, values), prepend=0)[place]
        return bool(size >= n_wanted)

    n_episodes = math.ceil((n_wanted + 1) / float(values[place]))
    while n_episodes > 1 and suffices(n_episodes - 1):
        n_episodes -= 1
    return n_episodes


def _cuts(n_episodes: int, shares: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where each part ends."""
    # Rounding the cumulated shares and not each one makes the parts sum up to the whole.
    return np.round(np.cumsum(shares) * n_episodes).astype(np.intp)
