"""The nearest supported command: samples of p(g | s), refined towards the request, rechecked."""

__all__ = ["Projection", "ProjectionSettings", "nearest_supported", "scaled_distance"]

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from flowshield.errors import ConfigError
from flowshield.models.checks import check_finite
from flowshield.models.networks import Standardizer

_SHORTLIST = 4  # nearest candidates that are rechecked one by one
_FRACTIONS = 8  # points on the way to the request that one round of refinement looks at
# A score computed in a batch of another size differs in its last bits: what is accepted must be
# supported by more than that, or its recheck could fail. Nats.
_MARGIN = 1e-3
_SEED = 0  # the same request at the same state gets the same answer


class ProjectionSettings(NamedTuple):
    """How the nearest supported command is searched.

    Attributes:
        n_candidates: Samples of p(g | s) to start from.
        n_steps: Rounds of refinement towards the request.
        lr: Share of the remaining way that the first round explores, in (0, 1].
        horizon_weight: Weight of the squared scaled horizon distance; the return's is 1. Who asks
            for (1000, 280) wants the return more than the exact number of steps, and the nearest
            point in plain distance may be a hovering episode that returns nothing.
        tolerance: Samples this much farther than the nearest, scaled units, count as equally near;
            of these the likeliest is taken. At the edge of what is supported the data are thinnest,
            and an agent follows worst.
    """

    n_candidates: int = 32
    n_steps: int = 0
    lr: float = 1.0
    horizon_weight: float = 1e-4
    tolerance: float = 0.05

    def replace(self, *, n_steps: int | None, lr: float | None) -> "ProjectionSettings":
        """The same settings with those that are not None replaced.

        Raises:
            ConfigError: A value is out of range.
        """
        new = self._replace(
            n_steps=self.n_steps if n_steps is None else n_steps,
            lr=self.lr if lr is None else lr,
        )
        if new.n_candidates < 1 or new.n_steps < 0 or not 0.0 < new.lr <= 1.0:
            raise ConfigError(
                f"expected n_candidates >= 1, n_steps >= 0 and 0 < lr <= 1, got {new}"
            )
        if not (new.horizon_weight >= 0.0 and new.tolerance >= 0.0):
            raise ConfigError(f"expected horizon_weight >= 0 and tolerance >= 0, got {new}")
        return new


class Projection(NamedTuple):
    """What became of each request.

    Attributes:
        command: [batch, 2], raw: the request itself where it was supported.
        score: [batch], log p(command | s), nats per (step x raw return).
        distance: [batch], scaled distance from the request; 0 where it was supported.
        changed: Bool [batch], whether the request was replaced.
        supported: Bool [batch], whether the command that came back is supported. False only where
            none was found; then the best supported sample came back.
    """

    command: Tensor
    score: Tensor
    distance: Tensor
    changed: Tensor
    supported: Tensor


class ScoredSampler(Protocol):
    """What a projection needs of a shield."""

    command_standardizer: Standardizer

    def score(self, state: Tensor, command: Tensor) -> Tensor:
        """[batch]: higher is better supported."""

    def sample_with_log_prob(
        self, state: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Commands [batch, n_samples, 2] and their log-densities [batch, n_samples]."""


def scaled_distance(
    a: Tensor, b: Tensor, standardizer: Standardizer, horizon_weight: float
) -> Tensor:
    """Distance between raw commands [..., 2] in units of the data's deviations, [...].

    sqrt(horizon_weight * dH^2 + dR^2), each difference divided by that quantity's standard
    deviation in the training data.
    """
    difference = (a - b) / standardizer.std
    squares = difference * difference
    return (horizon_weight * squares[..., 0] + squares[..., 1]).sqrt()


def nearest_supported(
    shield: ScoredSampler,
    state: Tensor,
    command: Tensor,
    threshold: Tensor,
    settings: ProjectionSettings,
) -> Projection:
    """Replaces requests outside {g : score(s, g) >= threshold} by near ones inside.

    Args:
        shield: Scores and samples commands.
        state: [batch, state_dim], raw.
        command: Requests [batch, 2], raw.
        threshold: Least score that is supported, [batch].
        settings: How to search.

    Returns:
        The commands, and what is known of each.

    Raises:
        DataError: A state or a command is not finite.
    """
    check_finite(state=state, command=command)
    score = shield.score(state, command)
    supported = score >= threshold
    result = Projection(
        command.clone(), score, torch.zeros_like(score), ~supported, supported.clone()
    )
    rows = (~supported).nonzero().squeeze(1)
    if len(rows) > 0:
        found, found_score = _search(
            shield, state[rows], command[rows], threshold[rows].unsqueeze(1) + _MARGIN, settings
        )
        result.command[rows] = found
        result.score[rows] = found_score.to(score.dtype)
        result.supported[rows] = found_score >= threshold[rows]
        result.distance[rows] = scaled_distance(
            found, command[rows], shield.command_standardizer, settings.horizon_weight
        )
    return result


def _search(
    shield: ScoredSampler,
    state: Tensor,
    request: Tensor,
    goal: Tensor,
    settings: ProjectionSettings,
) -> tuple[Tensor, Tensor]:
    """The best command [rows, 2] for each request and its score [rows]."""
    candidates = _shortlist(shield, state, request, goal, settings)
    distances = _distances(shield, candidates, request, settings)
    scores = _scores(shield, state, candidates)
    best = _likeliest_of_the_nearest(scores, distances, goal, settings.tolerance)
    found, score = _pick(candidates, best), _pick(scores, best)
    reach = settings.lr
    for _ in range(settings.n_steps):
        found, score = _refine(shield, state, request, found, score, reach, goal)
        reach /= _FRACTIONS
    return found, score


def _shortlist(
    shield: ScoredSampler,
    state: Tensor,
    request: Tensor,
    goal: Tensor,
    settings: ProjectionSettings,
) -> Tensor:
    """The supported samples worth a recheck and the likeliest of all, [rows, m, 2]."""
    generator = torch.Generator(device=state.device).manual_seed(_SEED)
    samples, log_prob = shield.sample_with_log_prob(state, settings.n_candidates, generator)
    samples[..., 0].clamp_(min=1.0)  # a command asks for at least one step
    log_prob = torch.where(torch.isfinite(log_prob), log_prob, -torch.inf)
    distances = _distances(shield, samples, request, settings)
    distances = torch.where(log_prob >= goal, distances, torch.inf)
    # the near ones first, by likelihood, then the rest by distance
    near = distances <= distances.min(dim=1, keepdim=True).values + settings.tolerance
    likelihood_rank = log_prob.argsort(dim=1, descending=True).argsort(dim=1)
    order = torch.where(near & distances.isfinite(), likelihood_rank - samples.shape[1], distances)
    chosen = order.topk(min(_SHORTLIST, samples.shape[1]), dim=1, largest=False).indices
    chosen = torch.cat([chosen, log_prob.argmax(dim=1, keepdim=True)], dim=1)
    return samples.gather(1, chosen.unsqueeze(-1).expand(-1, -1, samples.shape[-1]))


def _likeliest_of_the_nearest(
    scores: Tensor, distances: Tensor, goal: Tensor, tolerance: float
) -> Tensor:
    """Which of the commands to take, [rows], from their scores and distances [rows, m]."""
    passed = scores >= goal
    distances = torch.where(passed, distances, torch.inf)
    near = passed & (distances <= distances.min(dim=1, keepdim=True).values + tolerance)
    # where none passes, the best supported of all
    return torch.where(near | ~passed.any(dim=1, keepdim=True), scores, -torch.inf).argmax(dim=1)


def _refine(
    shield: ScoredSampler,
    state: Tensor,
    request: Tensor,
    found: Tensor,
    score: Tensor,
    reach: float,
    goal: Tensor,
) -> tuple[Tensor, Tensor]:
    """Moves each command as far along its straight way to the request as it stays supported."""
    fractions = reach * torch.arange(1, _FRACTIONS + 1, device=found.device) / _FRACTIONS
    way = (request - found).unsqueeze(1)
    points = found.unsqueeze(1) + fractions.view(1, -1, 1).to(found.dtype) * way
    points[..., 0].clamp_(min=1.0)  # the request itself may ask for less than one step
    scores = _scores(shield, state, points)
    # only an unbroken run of supported points: behind a gap may lie another kind of behaviour
    run = (scores >= goal).long().cumprod(dim=1).sum(dim=1)
    last = (run - 1).clamp(min=0)
    moved = run > 0
    return (
        torch.where(moved.unsqueeze(1), _pick(points, last), found),
        torch.where(moved, _pick(scores, last), score),
    )


def _scores(shield: ScoredSampler, state: Tensor, commands: Tensor) -> Tensor:
    """Scores [rows, m] of commands [rows, m, 2] at states [rows, state_dim]."""
    rows, m, dim = commands.shape
    flat = shield.score(state.repeat_interleave(m, dim=0), commands.reshape(rows * m, dim))
    return flat.reshape(rows, m)


def _distances(
    shield: ScoredSampler, commands: Tensor, request: Tensor, settings: ProjectionSettings
) -> Tensor:
    return scaled_distance(
        commands, request.unsqueeze(1), shield.command_standardizer, settings.horizon_weight
    )


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values[torch.arange(len(index), device=index.device), index]
