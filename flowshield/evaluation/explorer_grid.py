"""What every shield says of a grid of requests, at some moments of recorded episodes."""

__all__ = ["Moment", "Verdicts", "chosen_episodes", "explored_moment", "moment_steps"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.contrast import return_bound
from flowshield.evaluation.plane import extent, left_of, moment_data
from flowshield.evaluation.scoring import shield_limits, shield_scores
from flowshield.models import BaseShield
from flowshield.models.scale import ReturnScale

FINER = 4  # points of the map from one request of the grid to the next
_ROWS = 64  # requests that are projected at a time: more were slower

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Verdicts:
    """What a shield says at one moment; the requests are those of the grid, then the presets.

    Attributes:
        threshold: Least score that is supported, nats.
        score: Of each request, nats, [n]; -inf where none could be computed.
        supported: Whether the request is supported, bool [n].
        projected: What it is replaced by, [n, 2]; the request itself where it is supported.
        projected_score: Score of that, nats, [n].
        found: Whether that is supported, bool [n]: false only where nothing supported was found.
        map: Scores on the finer grid, nats, [FINER * (r - 1) + 1, FINER * (h - 1) + 1].
    """

    threshold: float
    score: Floats
    supported: NDArray[np.bool_]
    projected: Floats
    projected_score: Floats
    found: NDArray[np.bool_]
    map: Floats


@dataclass(frozen=True)
class Moment:
    """One state of an episode, and what may be asked there.

    Attributes:
        step: Steps that lie behind.
        horizons: Of the grid, whole steps, evenly spaced, [h].
        returns: Of the grid, evenly spaced, [r].
        presets: What is left at this moment of the commands of the run's grid, [k, 2].
        fulfilled: What the episode really did from here on, (H, R).
        bound: Provable upper bound on the return from here, if the environment knows one.
        shields: By name.
    """

    step: int
    horizons: Floats
    returns: Floats
    presets: Floats
    fulfilled: tuple[float, float]
    bound: float | None
    shields: Mapping[str, Verdicts]

    @property
    def requests(self) -> Floats:
        """Every request, [r * h + k, 2]: the grid's row by row of equal returns, then presets."""
        return np.concatenate([_commands(self.horizons, self.returns), self.presets])


def chosen_episodes(episodes: TrajectoryDataset, n: int) -> list[int]:
    """Episodes whose returns are spread evenly over the ranks, the lowest first."""
    order = np.argsort(episodes.episode_returns, kind="stable")
    places = (np.arange(n) + 0.5) / n * len(order)
    return list(dict.fromkeys(int(order[int(place)]) for place in places))


def moment_steps(length: int, n: int) -> list[int]:
    """At most n different steps of an episode, evenly spaced, the first among them."""
    return sorted({length * k // n for k in range(n)})


def explored_moment(
    shields: Mapping[str, BaseShield],
    episodes: TrajectoryDataset,
    commands: Sequence[tuple[float, float]],
    episode: int,
    step: int,
    n: int,
) -> Moment:
    """Asks every shield for its verdict on all requests of the plane.

    Args:
        shields: Calibrated.
        episodes: Held-out episodes.
        commands: Given at the start of the episode, (horizon, return).
        episode: Which of the episodes.
        step: The moment, from 0.
        n: Requests of the grid along each axis, at least 2.
    """
    index = int(episodes.episode_starts[episode]) + step
    state = episodes.states[index]
    presets = left_of(commands, step, episodes.rewards[index - step : index])
    fulfilled = episodes.commands[index]
    air = ReturnScale.of_commands(episodes.commands).noise
    spans = extent(moment_data(episodes, step), presets, fulfilled[None], 2, air)
    horizons, returns = _whole_steps(spans[0], n), _round_returns(spans[1], n)
    requests = np.concatenate([_commands(horizons, returns), presets])
    fine = _commands(_finer(horizons), _finer(returns))
    bound = return_bound(episodes, state[None])
    return Moment(
        step=step,
        horizons=horizons,
        returns=returns,
        presets=presets,
        fulfilled=(float(fulfilled[0]), float(fulfilled[1])),
        bound=None if bound is None else float(bound[0]),
        shields={
            name: _verdicts(shield, state, requests, fine, FINER * (n - 1) + 1)
            for name, shield in shields.items()
        },
    )


def _verdicts(
    shield: BaseShield, state: Floats, requests: Floats, fine: Floats, width: int
) -> Verdicts:
    parts = [_projected(shield, state, part) for part in _parts(requests)]
    command, score, found = map(np.concatenate, zip(*parts, strict=True))
    asked = shield_scores(shield, np.tile(state, (len(requests), 1)), requests)
    limit = float(shield_limits(shield, state[None])[0])
    scores = shield_scores(shield, np.tile(state, (len(fine), 1)), fine)
    return Verdicts(
        threshold=limit,
        score=asked.astype(np.float32),
        supported=asked >= limit,
        projected=command,
        projected_score=score,
        found=found,
        map=scores.astype(np.float32).reshape(-1, width),
    )


def _projected(
    shield: BaseShield, state: Floats, requests: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    states = torch.as_tensor(np.tile(state, (len(requests), 1)), device=shield.device)
    there = shield.project_in_detail(states, torch.as_tensor(requests, device=shield.device))
    return (
        there.command.cpu().numpy(),
        there.score.float().cpu().numpy(),
        there.supported.cpu().numpy(),
    )


def _parts(requests: Floats) -> list[Floats]:
    return [requests[i : i + _ROWS] for i in range(0, len(requests), _ROWS)]


def _whole_steps(span: NDArray[np.float64], n: int) -> Floats:
    stride = max(1, math.ceil((span[-1] - 1) / (n - 1)))
    horizons: Floats = (1 + stride * np.arange(n)).astype(np.float32)
    return horizons


def _round_returns(span: NDArray[np.float64], n: int) -> Floats:
    """Multiples of a round number, as far apart as the span needs."""
    least = float(span[-1] - span[0]) / (n - 1)
    power = 10.0 ** math.floor(math.log10(least))
    for stride in (f * p for p in (power, 10 * power) for f in (1, 2, 2.5, 4, 5, 6, 8)):
        start = math.floor(span[0] / stride) * stride
        if start + stride * (n - 1) >= span[-1]:
            break
    returns: Floats = (start + stride * np.arange(n)).astype(np.float32)
    return returns


def _finer(axis: Floats) -> Floats:
    fine = np.linspace(axis[0], axis[-1], FINER * (len(axis) - 1) + 1)
    return fine.astype(np.float32)


def _commands(horizons: Floats, returns: Floats) -> Floats:
    return np.stack(np.meshgrid(horizons, returns), axis=-1).reshape(-1, 2)
