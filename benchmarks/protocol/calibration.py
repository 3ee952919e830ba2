"""Part 3: is the false-alarm rate that was promised the one that comes?"""

__all__ = ["N_GROUPS", "measure", "rate_record"]

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import betabinom  # type: ignore[attr-defined]  # its __all__ is computed
from torch import Tensor

from flowshield.data import TrajectoryDataset
from flowshield.evaluation import clopper_pearson
from flowshield.models.shields import StateGroups, episodes_needed
from flowshield.models.shields.calibration import calibration_scores, conformal_threshold
from protocol import contenders
from protocol.contenders import Contender
from protocol.data import fresh, parts_of
from protocol.schedule import Context
from protocol.store import Key

N_GROUPS = 6  # groups of states with a threshold each
_FRESH_SEED = 11  # of the one step of each fresh episode
_START_ALPHA = 0.05

Array = NDArray[Any]


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Realised against nominal rates on fresh episodes: per step, per episode, with groups.

    The thresholds come out of the functions that `BaseShield.calibrate` is made of, so that every
    step needs to be scored once only. A shield that judges by its achievability is looked at per
    step and without groups.

    The unit "step_of_many" is the step again with `n_more` episodes to calibrate on: how much of
    what separates nominal and realised rates is the luck of a small calibration set.
    """
    settings = context.settings
    parts, judged = parts_of(context, key.dataset, key.seed), fresh(context, key.dataset)
    contender = contenders.load(context, key)
    whole = judged.subset(np.arange(min(settings.n_whole, judged.n_episodes)))
    own = _Scored(contender, parts["calibration"], parts["train"], all_steps=not key.detail)
    by_unit = {"step": _Scored(contender, judged, parts["train"])}
    if not key.detail:
        by_unit["episode"] = _Scored(contender, whole, parts["train"], all_steps=True)
    with_groups = key.model in settings.shields and not key.detail
    rows: list[dict[str, Any]] = []
    for n_groups in (1, N_GROUPS) if with_groups else (1,):
        groups = _groups(parts["train"], n_groups, key.seed)
        for unit, new in by_unit.items():
            pair = own.scores(unit, groups, key.seed), new.scores(unit, groups, _FRESH_SEED)
            rows += _rows(unit, settings.alphas, *pair)
            if n_groups > 1:
                one = own.scores(unit, _groups(parts["train"], 1, 0), key.seed)[0]
                rows += _rows(unit, settings.alphas, [one] * n_groups, pair[1], shared=True)
    all_states = _groups(parts["train"], 1, 0)
    step = own.scores("step", all_states, key.seed)[0]
    more = _Scored(contender, fresh(context, key.dataset, "more"), parts["train"])
    many = torch.cat([step, *more.scores("step", all_states, key.seed)])
    new = by_unit["step"].scores("step", all_states, _FRESH_SEED)
    rows += _rows("step_of_many", settings.alphas, [many], new)
    return {"rows": rows, "starts": _starts(contender, judged, step)}


class _Scored:
    """Scores of the commands that episodes fulfilled, all at once or as they are asked for."""

    def __init__(
        self,
        contender: Contender,
        data: TrajectoryDataset,
        train: TrajectoryDataset,
        all_steps: bool = False,
    ) -> None:
        self.contender, self.data = contender, data
        self.states = _standardized(data, train)
        self.all = contender.score(data.states, data.commands) if all_steps else None

    def scores(self, unit: str, groups: StateGroups, seed: int) -> list[Tensor]:
        """Exchangeable scores of each group, as `BaseShield.calibrate` takes them."""
        assigned = groups.assign(self.states).numpy()
        return calibration_scores(self._score, assigned, self.data, unit, len(groups), seed)

    def _score(self, steps: NDArray[np.int64]) -> Tensor:
        if self.all is not None:
            return torch.from_numpy(self.all[steps])
        found = self.contender.score(self.data.states[steps], self.data.commands[steps])
        return torch.from_numpy(found)


def _rows(
    unit: str,
    alphas: tuple[float, ...],
    own: list[Tensor],
    new: list[Tensor],
    shared: bool = False,
) -> Iterator[dict[str, Any]]:
    """A row for each group and level that there are scores enough for.

    `shared`: the groups are looked at one by one, but all have the same threshold.
    """
    for group, (calibration, judged) in enumerate(zip(own, new, strict=True)):
        for alpha in alphas:
            if len(calibration) < episodes_needed(alpha) or len(judged) == 0:
                continue
            threshold = conformal_threshold(calibration, alpha)
            count = int((~(judged >= threshold)).sum())
            record = rate_record(count, len(judged), alpha, len(calibration))
            about = {"unit": unit, "groups": len(own), "group": group, "shared": shared}
            yield {**about, "alpha": alpha, **record}


def rate_record(count: int, n: int, alpha: float, n_calibration: int) -> dict[str, Any]:
    """A realised rate with two judgements of whether the nominal one was kept.

    `covered`: the nominal rate lies within the Clopper-Pearson interval of this realised rate;
    that interval knows nothing of the calibration set's own luck. `promised`: the count lies in
    the central 95% of what split-conformal calibration promises, beta-binomial with
    (k, n_calibration + 1 - k), which knows of both.
    """
    low, high = clopper_pearson(count, n)
    k = int(np.floor(alpha * (n_calibration + 1) + 1e-9))
    least, most = betabinom.interval(0.95, n, k, n_calibration + 1 - k)
    return {
        "rate": count / n,
        "count": count,
        "n": n,
        "n_calibration": n_calibration,
        "low": low,
        "high": high,
        "covered": bool(low <= alpha <= high),
        "promised_low": float(least) / n,
        "promised_high": float(most) / n,
        "promised": bool(least <= count <= most),
    }


def _starts(contender: Contender, judged: TrajectoryDataset, own: Tensor) -> dict[str, Any]:
    """The rate at initial states, under the threshold for a random step."""
    threshold = conformal_threshold(own, _START_ALPHA)
    starts = judged.episode_starts
    scores = contender.score(judged.states[starts], judged.commands[starts])
    count = int((~(scores >= threshold)).sum())
    low, high = clopper_pearson(count, len(starts))
    return {"rate": count / len(starts), "low": low, "high": high, "n": len(starts)}


def _groups(train: TrajectoryDataset, n_groups: int, seed: int) -> StateGroups:
    """Of the training episodes: groups that had seen the calibration would cost exactness."""
    return StateGroups.fit(_standardized(train, train), n_groups, seed)


def _standardized(data: TrajectoryDataset, train: TrajectoryDataset) -> Tensor:
    mean, std = train.states.mean(axis=0), train.states.std(axis=0)
    return torch.from_numpy((data.states - mean) / np.maximum(std, 1e-6))
