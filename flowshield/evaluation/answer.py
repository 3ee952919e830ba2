"""What a shield says of one command at one state."""

__all__ = ["Answer", "ask_shield", "told_decimals"]

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowshield.errors import DataError, ShapeError
from flowshield.evaluation.cell_grid import Command
from flowshield.evaluation.wording import resolution_decimals
from flowshield.models import BaseShield


@dataclass(frozen=True)
class Answer:
    """What a shield says of one command at one state.

    Attributes:
        command: The request, (horizon in steps, return in raw reward).
        supported: Whether the data support it.
        score: How well it is supported, nats; -inf where the shield cannot compute it or a lent
            bound excludes it.
        threshold: The least supported score at this state, nats.
        score_type: "density" or "achievability".
        alpha: The false-alarm rate that the threshold promises.
        promise: What exactly is promised, one sentence.
        nearest: The request itself where it is supported, else the nearest command that is.
        nearest_score: Its score.
        nearest_supported: False only where no supported command was found; then `nearest` is the
            best supported sample.
        supported_returns: Ranges (low, high) of the returns that are supported at this horizon;
            none = nothing is. An end is infinite where every return beyond it is supported.
        return_decimals: See `told_decimals`.
    """

    command: Command
    supported: bool
    score: float
    threshold: float
    score_type: str
    alpha: float
    promise: str
    nearest: Command
    nearest_score: float
    nearest_supported: bool
    supported_returns: tuple[tuple[float, float], ...]
    return_decimals: int | None

    def record(self) -> dict[str, Any]:
        """The answer as a plain dict, for JSON once NaN and infinity are null."""
        return asdict(self)


@torch.no_grad()
def ask_shield(shield: BaseShield, state: ArrayLike, command: Sequence[float]) -> Answer:
    """Asks a shield whether a command is supported at a state, and what is.

    Args:
        shield: Calibrated.
        state: [state_dim], raw.
        command: (horizon in steps, at least 1; return in raw reward).

    Raises:
        DataError: A number is not finite, or the horizon is below 1.
        NotCalibratedError: The shield has no threshold.
        ShapeError: The state or the command has another length.
    """
    row, request = _checked(shield, state, command)
    states = torch.from_numpy(row).to(shield.device).unsqueeze(0)
    commands = torch.from_numpy(request).to(shield.device).unsqueeze(0)
    calibration = shield.calibration_in_force()
    projection = shield.project_in_detail(states, commands)
    ranges = shield.supported_returns(states, float(request[0]), also=[float(request[1])])[0]
    return Answer(
        command=_pair(request),
        supported=not bool(shield.is_ood(states, commands)),
        score=float(shield.score(states, commands)),
        threshold=float(shield.limits(states)),
        score_type=shield.score_type,
        alpha=calibration.alpha,
        promise=str(calibration),
        nearest=_pair(projection.command[0].cpu().numpy()),
        nearest_score=float(projection.score),
        nearest_supported=bool(projection.supported),
        supported_returns=tuple(ranges),
        return_decimals=told_decimals(shield),
    )


def told_decimals(shield: BaseShield) -> int | None:
    """With how many decimals a shield tells returns: a tenth of the noise that it adds to them.

    What differs by less it hardly tells apart. None where it adds none.
    """
    noise = float(shield.return_noise)
    return resolution_decimals(noise) + 1 if noise > 0.0 else None


def _checked(
    shield: BaseShield, state: ArrayLike, command: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    row, request = np.asarray(state, np.float32), np.asarray(command, np.float32)
    for name, values, n in (("state", row, shield.state_dim), ("command", request, 2)):
        if values.shape != (n,):
            got = f"{len(values)}" if values.ndim == 1 else f"shape {list(values.shape)}"
            raise ShapeError(f"{name}: expected {n} numbers, got {got}")
        if not np.isfinite(values).all():
            raise DataError(f"{name}: expected finite numbers, got {values.tolist()}")
    if request[0] < 1:
        raise DataError(f"command: expected a horizon of at least 1 step, got {request[0]:g}")
    return row, request


def _pair(values: NDArray[np.float32]) -> Command:
    return float(values[0]), float(values[1])
