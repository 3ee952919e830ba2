"""What every shield can do beside judging: say what may be asked, project, save and load."""

__all__ = ["SCORES", "BaseShield"]

import math
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flowshield.errors import DataError, FileFormatError, NotCalibratedError, unknown_name
from flowshield.models.checks import check_batch, check_finite
from flowshield.models.scale import search_tolerance
from flowshield.models.serialization import load_payload, rebuilding, rebuilt, save_payload
from flowshield.models.shields.calibration import Calibration
from flowshield.models.shields.frontier import Frontier, highest_supported
from flowshield.models.shields.judging_model import SCORES, JudgingModel
from flowshield.models.shields.projection import (
    Projection,
    ProjectionSettings,
    nearest_supported,
    typical_score,
)
from flowshield.models.shields.return_ranges import supported_ranges

_FRONTIER_SAMPLES = 256
_FRONTIER_HORIZONS = 32


class BaseShield(JudgingModel):
    """A model of p(g | s) that gives verdicts on commands.

    It answers question A of three that are not to be mixed: whether a command is *supported by the
    data*; not whether some policy could achieve it, nor whether a given policy follows it.

    A subclass sets `shield_type`, passes its constructor's arguments up as `hyperparameters`, and
    writes `compute_loss`, `log_prob` and `sample_with_log_prob`.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        hyperparameters: See `CommandModel`; further arguments of the subclass's constructor.

    Attributes:
        projection: How the nearest supported command is searched. Scores, thresholds and verdicts:
            see `JudgingModel`.
        compiled: The methods that `compile` compiles.
    """

    compiled: ClassVar[tuple[str, ...]] = ("log_probs",)
    _types: ClassVar[dict[str, type["BaseShield"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes the subclass known by its `shield_type`, for `BaseShield.load`."""
        super().__init_subclass__(**kwargs)
        if cls.shield_type:
            BaseShield.know(cls)

    def __init__(self, state_dim: int, command_dim: int = 2, **hyperparameters: Any) -> None:
        super().__init__(state_dim, command_dim, **hyperparameters)
        self.projection = ProjectionSettings()

    # ------------------------------------------------------------------ what may be asked

    def goals(self, state: Tensor) -> Tensor:
        """The score that a projection aims for at each state, [batch]: `projection.typicality`."""
        limits = self.limits(state)
        if len(state) == 0:
            return limits
        scores = self.scored_samples(state, self.projection.n_candidates)[1]
        return typical_score(scores, limits, self.projection.typicality)

    @torch.no_grad()
    def achievable(
        self,
        state: Tensor,
        horizons: Tensor | Sequence[float] | None = None,
        *,
        level: float | None = None,
        score_type: str | None = None,
        tolerance: float | None = None,
    ) -> Frontier:
        """What may be asked for at a state: at each horizon the highest supported return.

        Args:
            state: [batch, state_dim], raw.
            horizons: Steps, [m]; None = 32 from 1 to the longest of the shield's own samples.
            level: Least supported density, nats, or for the achievability the least probability;
                None = the calibrated threshold.
            score_type: "density" or "achievability"; None = the shield's own. The threshold of the
                other is not known: give a level.
            tolerance: How exact the returns are, raw reward; None = near 0.1% of their deviation.

        Raises:
            NotCalibratedError: No level was given, and there is no threshold for this score.
            ShapeError: A shape is wrong.
        """
        check_batch(state=(state, self.state_dim))
        check_finite(state=state)
        score_type = score_type or self.score_type
        limits = self._levels(state, level, score_type)
        unit = self.command_standardizer
        # at another horizon a sample's return is another: what is searched is R - c H
        samples = unit.shear(self.common_samples(state, _FRONTIER_SAMPLES)[0])
        if horizons is None:
            horizons = _frontier_horizons(samples[..., 0])
        found = highest_supported(
            lambda rows, commands: self.scores(rows, unit.unshear(commands), score_type),
            state,
            limits,
            torch.as_tensor(horizons, dtype=state.dtype, device=state.device),
            samples[..., 1],
            self._tolerance() if tolerance is None else tolerance,
            falling=score_type == "achievability",
        )
        return found._replace(returns=unit.returns_at(found.horizons, found.returns))

    @torch.no_grad()
    def supported_returns(
        self,
        state: Tensor,
        horizon: float,
        *,
        also: Sequence[float] = (),
        tolerance: float | None = None,
    ) -> list[list[tuple[float, float]]]:
        """Which returns are supported at a horizon: ranges, between which none was found.

        What `Frontier` says of islands of support holds here too, with 256 returns looked at
        between the lowest and the highest supported one beside those of the samples.

        Args:
            state: [batch, state_dim], raw.
            horizon: Steps, at least 1.
            also: Returns to look at besides, raw: one that is supported lies in a range.
            tolerance: How exact the ends are, raw reward; each end is itself supported. None =
                near 0.1% of the returns' deviation.

        Returns:
            For each state its ranges (low, high), raw, rising. No range: nothing is supported at
            that horizon. An end is infinite where every return beyond is supported; the
            achievability supports all below its highest.

        Raises:
            NotCalibratedError: The shield was never calibrated.
            DataError: The horizon is below 1, or something is not finite.
            ShapeError: A shape is wrong.
        """
        check_batch(state=(state, self.state_dim))
        check_finite(state=state, also=torch.as_tensor(also, dtype=torch.float64))
        if not 1 <= horizon < math.inf:
            raise DataError(f"expected a horizon of at least 1 step, got {horizon}")
        unit = self.command_standardizer
        samples = unit.shear(self.common_samples(state, _FRONTIER_SAMPLES)[0])
        constant = float(unit.returns_at(horizon, torch.zeros(1)))
        ranges = supported_ranges(
            lambda rows, commands: self.scores(rows, unit.unshear(commands)),
            state,
            self.limits(state),
            horizon,
            samples[..., 1],
            self._tolerance() if tolerance is None else tolerance,
            falling=self.score_type == "achievability",
            also=[ret - constant for ret in also],
        )
        return [[(low + constant, high + constant) for low, high in row] for row in ranges]

    def _tolerance(self) -> float:
        return search_tolerance(float(self.command_standardizer.std[1]))

    def _levels(self, state: Tensor, level: float | None, score_type: str) -> Tensor:
        if level is None:
            if score_type != self.score_type:
                raise NotCalibratedError(
                    f"the {self.shield_type} shield is calibrated for the score "
                    f"{self.score_type!r}: give a level for {score_type!r}"
                )
            return self.limits(state)
        if score_type == "achievability":
            if not 0.0 < level < 1.0:
                raise DataError(f"level: expected a probability in (0, 1), got {level}")
            level = math.log(level)
        return self.limits(state, level)

    def project(
        self, state: Tensor, command: Tensor, n_steps: int | None = None, lr: float | None = None
    ) -> Tensor:
        """Replaces unsupported commands by the nearest supported ones found.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            n_steps: Rounds of refinement towards the request; None = as configured.
            lr: Share of the remaining way that the first round explores; None = as configured.

        Returns:
            Commands [batch, 2], raw; supported requests come back unchanged.
        """
        return self.project_in_detail(state, command, n_steps, lr).command

    @torch.no_grad()
    def project_in_detail(
        self, state: Tensor, command: Tensor, n_steps: int | None = None, lr: float | None = None
    ) -> Projection:
        """Like `project`, with distance, score and verdict of each row."""
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        settings = self.projection.replace(n_steps=n_steps, lr=lr)
        limits = self.limits(state)
        return nearest_supported(self, state, command, limits, settings)

    # ------------------------------------------------------------------ speed

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the density with `torch.compile`, which takes these arguments.

        Of flow matching and diffusion the sampling too; nothing else of the other types, whose
        sampling and achievability branch on numbers. The numbers stay the same to rounding. For a
        control loop, which always asks with the same batch size: each new shape takes seconds at
        its first query, and after some shapes torch falls back to the code as it is. Needs a C++
        compiler. Neither saved with the shield nor taken over by a copy: compile that again.
        """
        for name in self.compiled:
            self.__dict__.pop(name, None)  # what was compiled before
            setattr(self, name, torch.compile(getattr(self, name), *args, **kwargs))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: a compiled method would answer with this shield's weights."""
        return {key: value for key, value in self.__dict__.items() if key not in self.compiled}

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes type, hyperparameters, weights, standardizers and calibration to one file."""
        save_payload(path, "shield", self.payload())

    def payload(self) -> dict[str, Any]:
        """The content of the shield's file."""
        return {
            "shield_type": self.shield_type,
            "hyperparameters": self.hyperparameters,
            "projection": self.projection._asdict(),
            "score_type": self.score_type,
            "calibration": None if self.calibration is None else self.calibration.payload(),
            "state_dict": self.state_dict(),
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> "BaseShield":
        """Reads a shield of any type that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            FileFormatError: The file is not a shield of a known version, or not of this type, or
                its settings or weights are those of another release.
        """
        payload = load_payload(path, "shield", device=device)
        with rebuilding(path, "shield"):
            shield = BaseShield.from_payload(payload)
        shield = shield.to(device)
        if not isinstance(shield, cls):
            raise FileFormatError(
                f"{path} holds a {shield.shield_type!r} shield, expected {cls.shield_type!r}"
            )
        return shield

    @staticmethod
    def from_payload(payload: dict[str, Any]) -> "BaseShield":
        """Rebuilds a shield from the content of its file."""
        make = BaseShield.of_type(payload["shield_type"])
        shield = rebuilt(make, payload["hyperparameters"], payload["state_dict"])
        shield.projection = ProjectionSettings(**payload["projection"])
        shield.score_type = payload["score_type"]
        if payload["calibration"] is not None:
            shield.calibration = Calibration.from_payload(payload["calibration"])
        return shield.eval()

    @staticmethod
    def know(shield_cls: type["BaseShield"]) -> None:
        """Lets `of_type` and `load` find a class, which it does itself but where it was pickled.

        A class of a program's own comes to Ray's workers by value: it is made there before it gets
        its `shield_type`.
        """
        BaseShield._types[shield_cls.shield_type] = shield_cls

    @staticmethod
    def of_type(shield_type: str) -> type["BaseShield"]:
        """The class of a shield type.

        Raises:
            ConfigError: The type is unknown; the message lists the known ones.
        """
        if shield_type not in BaseShield._types:
            raise unknown_name("shield", shield_type, BaseShield._types)
        return BaseShield._types[shield_type]


def _frontier_horizons(sampled: Tensor) -> Tensor:
    """Whole horizons from 1 to the longest sampled."""
    finite = sampled[sampled.isfinite()]
    longest = max(2.0, math.ceil(float(finite.amax())) if len(finite) else 2.0)
    return torch.from_numpy(np.unique(np.linspace(1.0, longest, _FRONTIER_HORIZONS).round()))
