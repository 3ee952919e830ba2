"""One face for shields, controls and peers: a score, a threshold, for some a density."""

__all__ = [
    "ACHIEVABILITY",
    "Contender",
    "knows_achievability",
    "load",
    "load_shield",
    "names",
    "threshold",
]

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from controls import CONTROLS, make_control
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.shield import shield_scores
from flowshield.models import BaseShield
from flowshield.models.shields.calibration import calibration_scores, conformal_threshold
from protocol import training
from protocol.data import config_for, parts_of
from protocol.schedule import Context
from protocol.settings import Settings
from protocol.store import Key

ACHIEVABILITY = "achievability"

Array = NDArray[Any]
Scores = Callable[[Array, Array], NDArray[np.float64]]


@dataclass(frozen=True)
class Contender:
    """Whoever says how well a command is supported.

    Attributes:
        name: As in the tables.
        score: Raw states [n, state_dim] and commands [n, 2] to scores [n]; low is suspicious.
        log_prob: The same in raw nats, where the score is a density; else None.
        project: The replacement of each command [n, 2], where there is one; else None.
    """

    name: str
    score: Scores
    log_prob: Scores | None = None
    project: Callable[[Array, Array], Array] | None = None


def names(settings: Settings) -> tuple[str, ...]:
    """Everybody who is judged, ours first."""
    return (*settings.shields, *settings.peers, *settings.controls)


def load(context: Context, key: Key) -> Contender:
    """The contender of a key, trained or fitted.

    Detail "achievability" lets a shield judge by P(R' >= R, H' <= H | s) and not by its density.
    """
    if key.model in context.settings.peers:
        model = training.peer(context, key.dataset, key.seed, key.model)
        return Contender(key.model, model.log_prob, model.log_prob)
    shield = load_shield(context, key)
    if key.detail == ACHIEVABILITY:
        shield = copy.deepcopy(shield)
        shield.score_type = ACHIEVABILITY
    return _of_shield(shield)


def knows_achievability(name: str) -> bool:
    """Whether a shield type has its achievability without sampling: only then is it quick."""
    cls = BaseShield.of_type(name)
    return cls.log_achievabilities is not BaseShield.log_achievabilities


def load_shield(context: Context, key: Key) -> BaseShield:
    """The trained shield of a key, or the control, fitted to the same episodes and calibrated."""
    if key.model in CONTROLS:
        return _control(context, key.dataset, key.seed, key.model)
    return training.shield(context, key.dataset, key.seed, key.model)


@lru_cache(maxsize=4)
def _control(context: Context, dataset: str, seed: int, name: str) -> BaseShield:
    parts = parts_of(context, dataset, seed)
    control = make_control(name, parts["train"])
    alpha = config_for(context, dataset, seed).calibration.alpha
    control.calibrate(parts["calibration"], alpha=alpha, seed=seed)
    return control


def threshold(
    contender: Contender, calibration: TrajectoryDataset, alpha: float, seed: int
) -> float:
    """The threshold that `BaseShield.calibrate` sets per step, with the same steps drawn."""

    def score(steps: NDArray[np.int64]) -> torch.Tensor:
        found = contender.score(calibration.states[steps], calibration.commands[steps])
        return torch.from_numpy(found)

    one_group = np.zeros(len(calibration), dtype=np.int64)
    (scores,) = calibration_scores(score, one_group, calibration, "step", 1, seed)
    return conformal_threshold(scores, alpha)


def _of_shield(shield: BaseShield) -> Contender:
    @torch.no_grad()
    def scores(states: Array, commands: Array) -> NDArray[np.float64]:
        return shield_scores(shield, states, commands)

    def project(states: Array, commands: Array) -> Array:
        found = shield.project(torch.as_tensor(states), torch.as_tensor(commands))
        return found.cpu().numpy()

    is_density = shield.score_type == "density" and shield.shield_type not in CONTROLS
    log_prob = scores if is_density else None
    return Contender(shield.shield_type, scores, log_prob, project)
