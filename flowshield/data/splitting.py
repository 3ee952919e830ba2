"""Splits episodes into parts by share."""

__all__ = ["split_positions"]

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

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
    # Rounding the cumulated shares and not each one makes the parts sum up to the whole.
    cuts = np.round(np.cumsum(values) * n_episodes).astype(np.intp)
    order = np.random.default_rng(check_seed(seed)).permutation(n_episodes)
    parts = dict(zip(shares, np.split(order, cuts[:-1]), strict=True))
    empty = [name for name, part in parts.items() if not len(part)]
    if empty:
        raise DataError(
            f"{n_episodes} episodes are too few for the shares {dict(shares)}: "
            f"{', '.join(empty)} would get none; collect more or change the shares"
        )
    return {name: np.sort(part) for name, part in parts.items()}
