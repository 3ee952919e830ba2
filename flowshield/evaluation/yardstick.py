"""By how much returns must differ to count: stated by the config, or derived from the data."""

__all__ = ["Yardstick", "margin_text", "tolerance_text"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.wording import short_number
from flowshield.models.scale import ReturnScale, round_step


@dataclass(frozen=True)
class Yardstick:
    """What differences of returns count in an evaluation, raw reward.

    Attributes:
        return_tolerance: A return counts as met within this.
        bound_margin: How far above the provable bound impossible commands ask.
        return_grid: See `ReturnScale.coarse_grid`: supported commands ask for multiples of it.
        derived: From what each number that the config leaves to the data follows, in words.
    """

    return_tolerance: float
    bound_margin: float
    return_grid: float | None
    derived: Mapping[str, str]

    @classmethod
    def of(cls, dataset: TrajectoryDataset, evaluation: Mapping[str, Any]) -> "Yardstick":
        """Takes what the config states, and derives the rest.

        Args:
            dataset: All episodes of the run, so that every shield, trial and worker has the same.
            evaluation: The config's section `evaluation`; null for a number leaves it to the data.
        """
        tolerance = evaluation["followed"]["return_tolerance"]
        margin = evaluation["bound_margin"]
        scale = ReturnScale.of_commands(dataset.commands)
        derived = {}
        if tolerance is None:
            tolerance, derived["return_tolerance"] = scale.step, _step_reason(scale)
        if margin is None:
            margin, derived["bound_margin"] = scale.margin, _margin_reason(scale)
        return cls(float(tolerance), float(margin), scale.coarse_grid, derived)

    def record(self) -> dict[str, Any]:
        """The entry "yardstick" of results.json."""
        return asdict(self)


def tolerance_text(yardstick: Mapping[str, Any] | None) -> str:
    """When a return counts as met, and where that comes from; "" where it was not recorded.

    Args:
        yardstick: The entry of results.json.
    """
    return _text("a return counts as met within {}", yardstick, "return_tolerance")


def margin_text(yardstick: Mapping[str, Any] | None) -> str:
    """What impossible commands ask for, likewise.

    Args:
        yardstick: The entry of results.json.
    """
    told = "impossible commands ask for {} more than the provable bound, where there is one"
    return _text(told, yardstick, "bound_margin")


def _text(told: str, yardstick: Mapping[str, Any] | None, name: str) -> str:
    if not yardstick or name not in yardstick:
        return ""
    reason = yardstick["derived"].get(name)
    source = "set by the config" if reason is None else f"derived: {reason}"
    return f"{told.format(short_number(yardstick[name]))} ({source})"


def _step_reason(scale: ReturnScale) -> str:
    if scale.step == scale.grid:
        return f"the step between the data's returns, whose spread is {_three(scale.spread)}"
    if scale.given_horizon is not None and scale.step < round_step(scale.spread / 5):
        return f"near the returns' spread at one horizon, {_three(scale.given_horizon)}"
    return f"a fifth of the returns' spread of {_three(scale.spread)}"


def _margin_reason(scale: ReturnScale) -> str:
    if scale.margin > scale.step:
        return (
            f"4 times the noise of {short_number(scale.noise)} that makes such returns continuous"
        )
    return _step_reason(scale)


def _three(value: float) -> str:
    return short_number(float(f"{value:.3g}"))
