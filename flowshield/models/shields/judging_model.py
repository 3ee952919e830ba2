"""A model of p(g | s) that judges: scores, thresholds, verdicts."""

__all__ = ["SCORES", "JudgingModel"]

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowshield.errors import ConfigError, NotCalibratedError, unknown_name
from flowshield.models.checks import check_batch, check_finite
from flowshield.models.shields.calibration import Calibration, EpisodeData, calibration_scores
from flowshield.models.shields.command_model import CommandModel
from flowshield.models.shields.groups import StateGroups

SCORES = ("density", "achievability")

_BATCH = 2048


class JudgingModel(CommandModel):
    """A command model that scores commands and, once calibrated, says which are supported.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hyperparameters: See `CommandModel`; further arguments of the subclass's constructor.

    Attributes:
        calibration: The thresholds and what they promise; None before `calibrate`.
        return_bound: Gives the highest return that any policy can get from raw states
            [batch, state_dim], [batch], where an environment lends one, else None. Not saved.
        n_uncomputed: How many scores could not be computed, and were taken for unsupported.
    """

    shield_type: ClassVar[str] = ""

    def __init__(self, state_dim: int, command_dim: int = 2, **hyperparameters: Any) -> None:
        super().__init__(state_dim, command_dim, **hyperparameters)
        self.calibration: Calibration | None = None
        self._score_type = "density"
        self.return_bound: Callable[[Tensor], Tensor] | None = None
        self.n_uncomputed = 0

    # ------------------------------------------------------------------ scores

    @property
    def score_type(self) -> str:
        """What `score` is, and verdicts therefore are about.

        "density": log p(g | s). Right where the request should be *typical* of the data, such as
        for a policy that follows badly wherever it saw nothing: a modest request (half the return
        in twice the time) may be flagged because nobody ever did so little.

        "achievability": log P(R' >= R, H' <= H | s). Right where the question is whether so much
        can be had so soon; a modest request is never flagged for being rare. It does not see that
        the policy has no example of it.

        Setting it to the other one drops the calibration: a threshold is for one score.
        """
        return self._score_type

    @score_type.setter
    def score_type(self, name: str) -> None:
        if name not in SCORES:
            raise unknown_name("score", name, SCORES)
        if name != self._score_type:
            self.calibration = None
        self._score_type = name

    def score(self, state: Tensor, command: Tensor) -> Tensor:
        """How well supported, [batch], nats: log p(g | s), or log P (see `score_type`).

        -inf where it cannot be computed (a verdict must fail closed: `n_uncomputed` counts these),
        and above `return_bound`.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
        """
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        return self.scores(state, command.unsqueeze(1)).squeeze(1)

    @torch.no_grad()
    def scores(self, state: Tensor, commands: Tensor, score_type: str | None = None) -> Tensor:
        """`score` of several commands at each state, [batch, m].

        Args:
            state: [batch, state_dim], raw.
            commands: [batch, m, 2], steps and raw return.
            score_type: "density" or "achievability"; None = the shield's own.
        """
        by_density = (score_type or self.score_type) == "density"
        values = (self.log_probs if by_density else self.log_achievabilities)(state, commands)
        return self._guarded(state, commands, values)

    @torch.no_grad()
    def scored_samples(self, state: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
        """`common_samples` with their scores, [batch, n, 2] and [batch, n].

        For the density these are the log-densities that come with the samples, which `scores`
        confirms but for the solver's error.
        """
        commands, log_prob = self.common_samples(state, n_samples)
        if self.score_type == "density":
            return commands, self._guarded(state, commands, log_prob)
        return commands, self.scores(state, commands)

    def _guarded(self, state: Tensor, commands: Tensor, values: Tensor) -> Tensor:
        """Scores [batch, m], -inf where they cannot be computed or the bound excludes them."""
        # the usual case by one number: a sum is finite only where everything in it is
        total = values.sum() + commands.sum() + state.sum()
        if self.return_bound is None and math.isfinite(total.item()):
            return values
        finite = commands.isfinite().all(dim=2) & state.isfinite().all(dim=1, keepdim=True)
        computed = finite & (values < torch.inf)  # NaN is not below anything; -inf is a density
        self.n_uncomputed += int((~computed).sum())
        if self.return_bound is not None:
            computed = computed & (commands[..., 1] <= self.return_bound(state).unsqueeze(1))
        return torch.where(computed, values, -torch.inf)

    # ------------------------------------------------------------------ verdicts

    @torch.no_grad()
    def calibrate(
        self,
        dataset: EpisodeData,
        alpha: float = 0.05,
        unit: str = "step",
        groups: int | StateGroups = 1,
        seed: int = 0,
    ) -> Calibration:
        """Sets the threshold that flags at most a share `alpha` of what the data support.

        What exactly is promised, for either unit and with groups, stands at `Calibration`.

        Args:
            dataset: Held-out episodes, that trained and selected nothing. Their commands are those
                that they fulfilled.
            alpha: The false-alarm rate, in (0, 1).
            unit: "step" (one random step of a new episode) or "episode" (a new episode at all).
            groups: Number of groups of states with a threshold each, or the groups themselves. A
                number takes the k-means groups of these episodes' own states: the promise is then
                exact only as far as the groups do not depend on the calibration episodes. Groups
                of other episodes (`fit_groups`; the Trainer takes the training episodes) keep it
                exact.
            seed: Of the draw of steps, and of k-means.

        Returns:
            The calibration, which is also kept as `calibration`.

        Raises:
            DataError: Too few episodes for alpha, in all or in a group (the message says how many
                are needed and how many there are), or NaN.
            ShapeError: A shape is wrong.
        """
        states, commands = (
            torch.as_tensor(rows, dtype=self.command_standardizer.mean.dtype, device=self.device)
            for rows in (dataset.states, dataset.commands)
        )
        check_batch(state=(states, self.state_dim), command=(commands, self.command_dim))
        check_finite(states=states, commands=commands)
        if not isinstance(groups, StateGroups):
            groups = self.fit_groups(states, groups, seed)

        def score(steps: NDArray[np.int64]) -> Tensor:
            rows = torch.from_numpy(steps).to(self.device)
            parts = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
            return torch.cat([self.score(states[part], commands[part]) for part in parts]).double()

        assigned = groups.assign(self.state_standardizer(states)).cpu().numpy()
        by_group = calibration_scores(score, assigned, dataset, unit, len(groups), seed)
        self.calibration = Calibration.of_scores(
            by_group, alpha, unit=unit, score=self.score_type, groups=groups
        )
        return self.calibration

    def fit_groups(self, states: Tensor, k: int, seed: int = 0) -> StateGroups:
        """k-means groups of raw states [n, state_dim], in the shield's standardized units."""
        return StateGroups.fit(self.state_standardizer(states), k, seed)

    @property
    def threshold(self) -> Tensor:
        """The calibrated threshold, [], or [k] of k groups; NaN without calibration."""
        found = (math.nan,) if self.calibration is None else self.calibration.thresholds
        thresholds = torch.tensor(found, dtype=torch.float64, device=self.device)
        return thresholds.squeeze(0) if len(found) == 1 else thresholds

    def calibration_in_force(self) -> Calibration:
        """The calibration.

        Raises:
            NotCalibratedError: The shield was never calibrated.
        """
        if self.calibration is None:
            raise NotCalibratedError(
                f"the {self.shield_type} shield was never calibrated and has no threshold yet: "
                "call calibrate(dataset, alpha) with held-out episodes, or pass threshold="
            )
        return self.calibration

    def threshold_at(self, alpha: float) -> float:
        """The threshold for another false-alarm rate, from the stored calibration scores."""
        return self._only(self.calibration_in_force().at(alpha))

    def threshold_in_force(self, given: float | None = None) -> float:
        """The given threshold, or the calibrated one.

        Raises:
            NotCalibratedError: None was given and the shield was never calibrated.
            ConfigError: There are several groups: `limits` tells each state's.
        """
        return self._only(self.calibration_in_force()) if given is None else given

    def limits(
        self, state: Tensor, threshold: float | None = None, alpha: float | None = None
    ) -> Tensor:
        """The least supported score at each state, [batch]: that of the state's group.

        Args:
            state: [batch, state_dim], raw.
            threshold: Takes the place of all the calibrated ones.
            alpha: Another false-alarm rate than the calibrated one.

        Raises:
            NotCalibratedError: No threshold was given and the shield was never calibrated.
            DataError: Too few calibration scores for alpha.
        """
        if threshold is not None:
            return torch.full((len(state),), threshold, dtype=torch.float64, device=state.device)
        calibration = self.calibration_in_force()
        if alpha is not None:
            calibration = calibration.at(alpha)
        if len(calibration.thresholds) == 1:
            return self.limits(state, calibration.thresholds[0])
        return calibration.limits(self.state_standardizer(state))

    @torch.no_grad()
    def is_ood(self, state: Tensor, command: Tensor, threshold: float | None = None) -> Tensor:
        """Whether the data do not support a command at a state.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            threshold: Least score that counts as supported; None = the calibrated one.

        Returns:
            Bool [batch]; True also where the score cannot be computed.

        Raises:
            NotCalibratedError: No threshold was given and the shield was never calibrated.
            ShapeError: A shape is wrong.
        """
        # not `score < limit`: a threshold of NaN must not pass everything
        return ~(self.score(state, command) >= self.limits(state, threshold))

    @staticmethod
    def _only(calibration: Calibration) -> float:
        if len(calibration.thresholds) > 1:
            raise ConfigError(
                f"the shield has {len(calibration.thresholds)} groups of states with a threshold "
                "each: limits(state) gives those of some states"
            )
        return calibration.thresholds[0]
