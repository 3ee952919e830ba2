"""The nearest supported command: samples of p(g | s), refined towards the request."""

__all__ = [
    "Projection",
    "ProjectionSettings",
    "nearest_supported",
    "scaled_distance",
    "typical_score",
]

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from flowshield.errors import ConfigError
from flowshield.models.checks import check_finite
from flowshield.models.standardizer import CommandStandardizer, Standardizer

_SHORTLIST = 4  # nearest samples that are rechecked in the first round
_NEAR = 0.75  # share of the samples, the nearest, whose spread is the pattern's first scale
# One round looks at these shares of the way to the request, sideways by these spreads.
_SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
_SIDEWAYS = (0.0, 0.3, -0.3, 0.8, -0.8, 1.6, -1.6)
_NARROWING = 3.0  # of the sideways spread, a round
_WIDENING = 1.5  # of the bracket that a round leaves: sideways of it there may be more room
_CLOSE = 0.02  # a row whose bracket is this share of its distance is done
_LEAST_WEIGHT = 1e-12  # a horizon without any weight would have no scale to search on
# A score computed in a batch of another size differs in its last bits: what is accepted must be
# supported by more than that, or its recheck could fail. Nats.
_MARGIN = 1e-3
_MORE = 16  # times the samples, where none of the first was supported
_SAME = 1e-4  # scaled distance within which the best sample is the request itself


class ProjectionSettings(NamedTuple):
    """How the nearest supported command is searched.

    Attributes:
        n_candidates: Samples of p(g | s) to start from.
        n_steps: Rounds of refinement towards the request, 56 commands each; 0 = the nearest sample.
        lr: Share of the remaining way that the first round explores, in (0, 1].
        horizon_weight: Weight of the squared scaled horizon distance; the return's is 1. Who asks
            for (1000, 280) wants the return more than the exact number of steps, and the nearest
            point in plain distance may be a hovering episode that returns nothing.
        typicality: What comes back must be at least as likely as this share of what is supported
            at the state, by the shield's own samples: it lies in the state's highest-density
            region (Hyndman 1996, The American Statistician 50(2)) of the remaining share. At the
            very edge of what is supported the data are thinnest, and an agent follows worst. 0: the
            edge itself.
    """

    n_candidates: int = 64
    n_steps: int = 2
    lr: float = 1.0
    horizon_weight: float = 1e-4
    typicality: float = 0.85

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
        if not (new.horizon_weight >= 0.0 and 0.0 <= new.typicality < 1.0):
            raise ConfigError(f"expected horizon_weight >= 0 and 0 <= typicality < 1, got {new}")
        return new


class Projection(NamedTuple):
    """What became of each request.

    Attributes:
        command: [batch, 2], raw: the request itself where it was supported.
        score: [batch], nats: log p(command | s) per (step x raw return), or the logarithm of the
            achievability, whichever the shield scores by.
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

    command_standardizer: CommandStandardizer

    def scores(self, state: Tensor, commands: Tensor) -> Tensor:
        """[batch, m] of commands [batch, m, 2]: higher is better supported."""

    def scored_samples(self, state: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
        """Commands [batch, n_samples, 2] and their scores [batch, n_samples], solver's error in."""


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
    limits: Tensor,
    settings: ProjectionSettings,
) -> Projection:
    """Replaces requests outside {g : score(s, g) >= limit} by near ones inside.

    A pattern search (Hooke & Jeeves 1961) from the nearest supported sample, in the coordinates
    of the distance: along the way to the request and across it, the way sheared as the samples
    are. Every round scores all its commands in one call and looks three times closer; a row that
    is close enough leaves, and none gets more rounds than `n_steps`.

    Args:
        shield: Scores and samples commands.
        state: [batch, state_dim], raw.
        command: Requests [batch, 2], raw.
        limits: Least score that is supported, [batch].
        settings: How to search.

    Returns:
        The commands, and what is known of each.

    Raises:
        DataError: A state or a command is not finite.
    """
    check_finite(state=state, command=command)
    score = shield.scores(state, command.unsqueeze(1)).squeeze(1)
    supported = score >= limits
    result = Projection(
        command.clone(), score, torch.zeros_like(score), ~supported, supported.clone()
    )
    rows = (~supported).nonzero().squeeze(1)
    for n_candidates in (settings.n_candidates, _MORE * settings.n_candidates):
        if len(rows) == 0:
            return result
        search = _Search(
            shield, state[rows], command[rows], settings._replace(n_candidates=n_candidates)
        )
        search.start(limits[rows])
        found, found_score = search.run(settings.n_steps)
        result.command[rows] = found
        result.score[rows] = found_score.to(score.dtype)
        result.supported[rows] = found_score >= limits[rows]
        result.distance[rows] = scaled_distance(
            found, command[rows], shield.command_standardizer, settings.horizon_weight
        ).to(score.dtype)
        rows = rows[~result.supported[rows]]
    # twice the same answer to what was the answer: rounding must not move it
    same = rows[result.distance[rows] < _SAME]
    result.command[same], result.distance[same], result.changed[same] = command[same], 0.0, False
    return result


def typical_score(scores: Tensor, limits: Tensor, typicality: float) -> Tensor:
    """The score that a replacement is to have, [batch]: see `ProjectionSettings.typicality`.

    Args:
        scores: Of the shield's own samples at each state, [batch, n].
        limits: Least score that is supported, [batch].
        typicality: Share of the supported samples that score less.

    Returns:
        The limit where no sample is supported, and for typicality 0.
    """
    if typicality == 0.0 or len(limits) == 0:  # torch has no quantile of nothing
        return limits
    supported = scores >= limits.unsqueeze(1)
    inside = torch.where(supported, scores.to(limits), torch.nan)
    # a sample's own score, not one between two: at least that sample reaches it
    goals = inside.nanquantile(typicality, dim=1, interpolation="lower")
    return torch.where(supported.any(dim=1), goals, limits)


class _Search:
    """The search for many requests at once, one a row.

    Points are in units in which the scaled distance is the plain one: (H sqrt(weight) / std_H,
    R / std_R).
    """

    def __init__(
        self,
        shield: ScoredSampler,
        state: Tensor,
        request: Tensor,
        settings: ProjectionSettings,
    ) -> None:
        self.shield, self.state, self.settings = shield, state, settings
        weight = torch.tensor([max(settings.horizon_weight, _LEAST_WEIGHT), 1.0])
        self.unit = shield.command_standardizer.std / weight.sqrt().to(state.device)
        self.request = request / self.unit

    def start(self, limits: Tensor) -> None:
        """Draws the samples and lists the best of them."""
        n = self.settings.n_candidates
        samples, scores = self.shield.scored_samples(self.state, n)
        goals = typical_score(scores, limits, self.settings.typicality)
        self.goals = (goals + _MARGIN).unsqueeze(1)
        points = self._at_least_one_step(samples / self.unit)
        distance = (points - self.request.unsqueeze(1)).norm(dim=2)
        distance = torch.where(scores >= self.goals, distance, torch.inf)
        near = distance.topk(max(1, int(_NEAR * n)), dim=1, largest=False)
        self.near = _rows_of(points, near.indices)
        # too few that are supported have no spread: then all count
        inside = near.values.isfinite()
        self.weights = torch.where(inside.sum(dim=1, keepdim=True) < 3, True, inside).to(points)
        likeliest = _rows_of(points, scores.argmax(dim=1, keepdim=True))
        self.shortlist = torch.cat([self.near[:, :_SHORTLIST], likeliest], dim=1)
        self.point = torch.where(inside[:, :1], self.near[:, 0], likeliest[:, 0])
        # nothing counts as found before it is rechecked
        self.distance = torch.full_like(distance[:, 0], torch.inf)
        self.score = torch.full_like(scores[:, 0], -torch.inf)
        self.reach = torch.full_like(self.distance, self.settings.lr)
        self.spread = torch.ones_like(self.distance)

    def run(self, n_rounds: int) -> tuple[Tensor, Tensor]:
        """Commands [rows, 2], raw, and their scores [rows], after so many rounds at most."""
        rows = torch.arange(len(self.point), device=self.point.device)
        if n_rounds == 0:
            self._recheck(self.shortlist, self._scores(rows, self.shortlist))
        for first in [True, *[False] * (n_rounds - 1)][:n_rounds]:
            if len(rows) == 0:
                break
            rows = self._round(rows, first)
        return self._raw(self.point), self.score

    def _round(self, rows: Tensor, first: bool) -> Tensor:
        """Looks at one pattern a row, the first time at the shortlist too; the rows not done."""
        shares, points = self._pattern(rows)
        before = (self.point[rows] - self.request[rows]).norm(dim=1)
        n = points.shape[1]
        if first:  # in one call with the pattern: a call costs as much as its commands
            points = torch.cat([points, self.shortlist], dim=1)
        scores = self._scores(rows, points)
        if first:
            self._recheck(self.shortlist, scores[:, n:])
        improved, index = self._take(rows, points[:, :n], scores[:, :n])
        after = (self.point[rows] - self.request[rows]).norm(dim=1)
        tried = torch.tensor(_SHARES, device=points.device, dtype=points.dtype)
        gap = tried.diff(append=tried[-1:] + 0.5)
        left = torch.where(improved, gap[shares[index]], tried[0])
        bracket = _WIDENING * left * self.reach[rows] * before / after.clamp(min=1e-12)
        self.reach[rows] = bracket.clamp(max=1.0)
        self.spread[rows] /= _NARROWING
        return rows[(bracket > _CLOSE) & (after > 0)]

    def _recheck(self, points: Tensor, scores: Tensor) -> None:
        """Starts from the nearest of the shortlist, or the best where none reaches the goal."""
        best = scores.argmax(dim=1)
        self.point, self.score = _pick(points, best), _pick(scores, best)
        self._take(torch.arange(len(points), device=points.device), points, scores)

    def _pattern(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which share each point is of [m], and the points [rows, m, 2]."""
        here = self.point[rows]
        way = self.request[rows] - here
        length = way.norm(dim=1, keepdim=True)
        along = way / length.clamp(min=1e-12)
        across = torch.stack([-along[:, 1], along[:, 0]], dim=1)
        slope, spread = self._shear(rows, along, across)
        shares = torch.tensor(_SHARES, device=here.device, dtype=here.dtype)
        sideways = torch.tensor(_SIDEWAYS, device=here.device, dtype=here.dtype)
        forward = shares * self.reach[rows].unsqueeze(1) * length  # [rows, shares]
        aside = sideways * (spread * self.spread[rows]).unsqueeze(1)  # [rows, sideways]
        sheared = (slope.unsqueeze(1) * forward).unsqueeze(2) + aside.unsqueeze(1)
        n, m = len(_SHARES), len(_SIDEWAYS)
        forward = torch.cat([forward.repeat_interleave(m, dim=1), forward], dim=1)
        aside = torch.cat([sheared.flatten(1), torch.zeros_like(forward[:, :n])], dim=1)
        index = torch.arange(n, device=here.device)
        points = here.unsqueeze(1) + forward.unsqueeze(2) * along.unsqueeze(1)
        points = points + aside.unsqueeze(2) * across.unsqueeze(1)
        shares_of = torch.cat([index.repeat_interleave(m), index])
        return shares_of, self._at_least_one_step(points)

    def _shear(self, rows: Tensor, along: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
        """How the near samples move across as they move along, and their spread about that."""
        near, weights = self.near[rows], self.weights[rows]
        total = weights.sum(dim=1, keepdim=True)

        def centred(direction: Tensor) -> Tensor:
            coordinate = (near * direction.unsqueeze(1)).sum(dim=2)
            mean = (coordinate * weights).sum(dim=1, keepdim=True) / total
            return (coordinate - mean) * weights

        forward, aside = centred(along), centred(across)
        slope = (forward * aside).sum(dim=1) / (forward * forward).sum(dim=1).clamp(min=1e-20)
        rest = aside - slope.unsqueeze(1) * forward
        return slope, ((rest * rest).sum(dim=1) / total.squeeze(1)).sqrt()

    def _take(self, rows: Tensor, points: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps the nearest point [rows, m, 2] that reaches the goal, if nearer than before.

        Returns:
            Whether a row improved, bool [rows], and by which point [rows].
        """
        distance = (points - self.request[rows].unsqueeze(1)).norm(dim=2)
        distance = torch.where(scores >= self.goals[rows], distance, torch.inf)
        nearest, index = distance.min(dim=1)
        improved = nearest < self.distance[rows]
        chosen = rows[improved]
        self.point[chosen] = _pick(points, index)[improved]
        self.score[chosen] = _pick(scores, index)[improved]
        self.distance[chosen] = nearest[improved]
        return improved, index

    def _scores(self, rows: Tensor, points: Tensor) -> Tensor:
        return self.shield.scores(self.state[rows], self._raw(points))

    def _raw(self, points: Tensor) -> Tensor:
        raw = points * self.unit
        # rounding may have taken a little off the least horizon
        return torch.stack([raw[..., 0].clamp(min=1.0), raw[..., 1]], dim=-1)

    def _at_least_one_step(self, points: Tensor) -> Tensor:
        """A command asks for at least one step."""
        horizon = points[..., 0].maximum(1.0 / self.unit[0])
        return torch.stack([horizon, points[..., 1]], dim=-1)


def _rows_of(points: Tensor, index: Tensor) -> Tensor:
    """Points [rows, m, 2] of points [rows, n, 2] at indices [rows, m]."""
    return points.gather(1, index.unsqueeze(2).expand(-1, -1, points.shape[2]))


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values[torch.arange(len(index), device=index.device), index]
