"""Episodes that any test can tell apart."""

import numpy as np

from flowshield.data import Episode


def numbered_episode(
    length, index=0, *, truncated=False, behaviour="random", level=np.nan, request=None
):
    """Every number of the episode tells where it belongs: 100 * index + step."""
    steps = 100.0 * index + np.arange(length)
    return Episode(
        states=np.stack([steps, -steps], axis=1).astype(np.float32),
        final_state=np.array([steps[-1] + 1, 0], np.float32),
        actions=steps[:, None].astype(np.float32) / 2,
        rewards=steps + 0.25,
        terminated=not truncated,
        truncated=truncated,
        behaviour=behaviour,
        level=level,
        index=index,
        request=request,
    )
