"""Computes the command plane of a state: density, threshold, requests and projections."""

__all__ = [
    "extent",
    "left_of",
    "moment_data",
    "moment_planes",
    "plane_at",
    "typical_episode",
]

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.command_plane import CommandPlane
from flowshield.evaluation.contrast import return_bound
from flowshield.evaluation.scoring import shield_limits, shield_scores
from flowshield.models import BaseShield
from flowshield.models.scale import ReturnScale

_RESOLUTION = 80
_QUANTILES = (0.05, 0.95)
_FAR = 1.5  # times the data's longest horizon: a request beyond it lies outside the plane
_MARGIN = 0.08  # of the span, beyond what is to be seen
_MOMENTS = 4


def typical_episode(episodes: TrajectoryDataset) -> int:
    """The episode with the median return."""
    order = np.argsort(episodes.episode_returns, kind="stable")
    return int(order[len(order) // 2])


def moment_planes(
    shield: BaseShield,
    episodes: TrajectoryDataset,
    requests: Sequence[tuple[float, float]],
    episode: int,
) -> dict[str, CommandPlane]:
    """The plane at evenly spaced moments of an episode, by title, with what is asked then.

    What was asked at the start stands later at what is left of it, as `CommandedPolicy` counts:
    the horizon less the steps so far, the return less the rewards so far.

    Args:
        shield: Calibrated.
        episodes: Held-out episodes.
        requests: Commands at the start, (horizon, return).
        episode: Which of the episodes.
    """
    length = int(episodes.episode_lengths[episode])
    steps = sorted({length * k // _MOMENTS for k in range(_MOMENTS)})
    return {
        f"step {step} of {length}": plane_at(shield, episodes, requests, episode, step)
        for step in steps
    }


def plane_at(
    shield: BaseShield,
    episodes: TrajectoryDataset,
    requests: Sequence[tuple[float, float]],
    episode: int = 0,
    step: int = 0,
) -> CommandPlane:
    """The plane at one moment of an episode.

    Args:
        shield: Calibrated.
        episodes: Held-out episodes; what they all fulfilled from this step on is drawn as the data.
        requests: Commands at the start of the episode, (horizon, return), shown with what is left
            of them and with their projections.
        episode: Whose state it is.
        step: The moment, from 0.
    """
    index = int(episodes.episode_starts[episode]) + step
    state = episodes.states[index]
    data = moment_data(episodes, step)
    left = left_of(requests, step, episodes.rewards[index - step : index])
    projections = _projected(shield, state, left)
    fulfilled = episodes.commands[index : index + 1]
    air = ReturnScale.of_commands(episodes.commands).noise
    shown = np.concatenate([projections, fulfilled])
    horizons, returns = extent(data, left, shown, _RESOLUTION, air)
    grid = np.stack(np.meshgrid(horizons, returns), axis=-1).reshape(-1, 2).astype(np.float32)
    scores = shield_scores(shield, np.tile(state, (len(grid), 1)), grid)
    bound = return_bound(episodes, state[None])
    return CommandPlane(
        horizons=horizons,
        returns=returns,
        log_prob=scores.reshape(_RESOLUTION, _RESOLUTION),
        threshold=float(shield_limits(shield, state[None])[0]),
        requests=left,
        projections=projections,
        data_commands=data,
        bound=None if bound is None else float(bound[0]),
        fulfilled=fulfilled,
    )


def extent(
    data: NDArray[np.floating],
    requests: NDArray[np.floating],
    points: NDArray[np.floating],
    n: int,
    air: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Horizons [n] and returns [n] that span a plane worth looking at.

    It shows the middle 90% of the data, and those requests that ask for no much longer horizon: a
    request of 1,000 steps would leave nothing to see of the rest.

    Args:
        data: Commands that were fulfilled, [k, 2].
        requests: Commands that are asked, [m, 2].
        points: Commands that must be seen, [j, 2].
        n: How many of each.
        air: Return beyond what is shown, at least; above 0, or equal returns would span nothing.
    """
    low, high = np.quantile(data.astype(np.float64), _QUANTILES, axis=0)
    near = requests[requests[:, 0] <= _FAR * high[0]]
    shown = np.concatenate([data.clip(low, high), near, points])
    margin = _MARGIN * np.ptp(shown, axis=0) + (1.0, air)
    horizons = np.linspace(1.0, shown[:, 0].max() + margin[0], n)
    returns = np.linspace(shown[:, 1].min() - margin[1], shown[:, 1].max() + margin[1], n)
    return horizons, returns


def moment_data(episodes: TrajectoryDataset, step: int) -> NDArray[np.float32]:
    """What all episodes that last so long fulfilled from a step on, [k, 2]."""
    return episodes.commands[episodes.episode_starts[episodes.episode_lengths > step] + step]


def left_of(
    requests: Sequence[tuple[float, float]], step: int, rewards: NDArray[np.float64]
) -> NDArray[np.float32]:
    """What is left of requests [k, 2] after so many steps and these rewards."""
    left = np.array(requests, dtype=np.float64).reshape(-1, 2) - (step, rewards.sum())
    left[:, 0] = left[:, 0].clip(min=1.0)
    return left.astype(np.float32)


def _projected(
    shield: BaseShield, state: NDArray[np.float32], requests: NDArray[np.float32]
) -> NDArray[np.float32]:
    if len(requests) == 0:
        return requests
    device = shield.device
    states = torch.as_tensor(np.tile(state, (len(requests), 1)), device=device)
    projected: NDArray[np.float32] = (
        shield.project(states, torch.as_tensor(requests, device=device)).cpu().numpy()
    )
    return projected
