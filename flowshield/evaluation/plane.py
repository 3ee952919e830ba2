"""Computes the command plane of one state: density, threshold, requests and projections."""

__all__ = ["start_plane"]

from collections.abc import Sequence

import numpy as np
import torch

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.command_plane import CommandPlane
from flowshield.evaluation.contrast import return_bound
from flowshield.evaluation.scoring import shield_limits, shield_scores
from flowshield.models import BaseShield

_RESOLUTION = 80
_QUANTILES = (0.01, 0.99)


def start_plane(
    shield: BaseShield,
    episodes: TrajectoryDataset,
    requests: Sequence[tuple[float, float]],
    episode: int = 0,
) -> CommandPlane:
    """The plane at the first state of an episode.

    It spans the middle 98% of what the episodes fulfilled from their starts, and those requests
    that ask for no more than twice its horizon: a request of 1,000 steps would leave nothing to
    see of the rest.

    Args:
        shield: Calibrated.
        episodes: Held-out episodes; the commands of all their starts are drawn as the data.
        requests: Commands whose projections are shown, (horizon, return).
        episode: Whose first state it is.
    """
    starts = episodes.episode_starts
    data = episodes.commands[starts].astype(np.float64)
    low, high = np.quantile(data, _QUANTILES, axis=0)
    shown = np.array([r for r in requests if r[0] <= 2 * high[0]], dtype=np.float32).reshape(-1, 2)
    both = np.concatenate([data.clip(low, high), shown])
    margin = 0.08 * np.ptp(both, axis=0)
    horizons = np.linspace(1.0, both[:, 0].max() + margin[0], _RESOLUTION)
    returns = np.linspace(both[:, 1].min() - margin[1], both[:, 1].max() + margin[1], _RESOLUTION)
    state = episodes.states[starts[episode]]
    grid = np.stack(np.meshgrid(horizons, returns), axis=-1).reshape(-1, 2).astype(np.float32)
    scores = shield_scores(shield, np.tile(state, (len(grid), 1)), grid)
    bound = return_bound(episodes, state[None])
    return CommandPlane(
        horizons=horizons,
        returns=returns,
        log_prob=scores.reshape(_RESOLUTION, _RESOLUTION),
        threshold=float(shield_limits(shield, state[None])[0]),
        requests=shown,
        projections=_projected(shield, state, shown),
        data_commands=data,
        bound=None if bound is None else float(bound[0]),
    )


def _projected(shield: BaseShield, state: np.ndarray, requests: np.ndarray) -> np.ndarray:
    if len(requests) == 0:
        return requests
    device = shield.device
    states = torch.as_tensor(np.tile(state, (len(requests), 1)), device=device)
    return shield.project(states, torch.as_tensor(requests, device=device)).cpu().numpy()
