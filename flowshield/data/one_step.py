"""One random step of each episode: pairs that are exchangeable with a new episode's."""

__all__ = ["one_step_per_episode"]

import numpy as np
from numpy.typing import NDArray

from flowshield.data.dataset import TrajectoryDataset


def one_step_per_episode(dataset: TrajectoryDataset, seed: int) -> NDArray[np.int64]:
    """Draws one step of each episode, every step of it equally likely.

    Steps of one episode depend on each other; a conformal threshold and a binomial interval both
    need rows that do not.

    Args:
        dataset: The episodes.
        seed: Of the draw.

    Returns:
        Indices of transitions, [n_episodes].
    """
    rng = np.random.default_rng(seed)
    steps: NDArray[np.int64] = dataset.episode_starts + rng.integers(dataset.episode_lengths)
    return steps
