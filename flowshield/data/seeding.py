"""Randomness that belongs to an episode and not to whoever collects it."""

__all__ = ["check_seed", "draw_env_seed", "episode_generator"]

import operator

import numpy as np

from flowshield.errors import ConfigError


def episode_generator(seed: int, index: int) -> np.random.Generator:
    """Gives the generator from which episode `index` of a collection draws everything.

    It is the child with this index that `SeedSequence(seed).spawn` would give, so it depends
    neither on how many episodes are collected nor on who collects them.

    Args:
        seed: Seed of the collection, not negative.
        index: Index of the episode, not negative.

    Raises:
        ConfigError: The seed is negative or no whole number.
    """
    return np.random.default_rng(np.random.SeedSequence(check_seed(seed), spawn_key=(index,)))


def draw_env_seed(rng: np.random.Generator) -> int:
    """Draws the seed for the reset of an environment, the first draw of every episode."""
    return int(rng.integers(2**31))


def check_seed(seed: int) -> int:
    """Returns the seed as an int, or raises a ConfigError that says what a seed must be."""
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if value < 0:
        raise ConfigError(f"expected a seed that is a whole number >= 0, got {seed!r}")
    return value
