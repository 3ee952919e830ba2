"""What an outcome guard makes of one command at one state."""

__all__ = ["GuardedAnswer", "Prediction", "ask_guard", "guarded_lines"]

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flowshield.evaluation.cell_grid import Command
from flowshield.evaluation.certificate import Certificate, certificate_text
from flowshield.evaluation.wording import command_words, number, percent
from flowshield.models import OutcomeGuard


@dataclass(frozen=True)
class Prediction:
    """What the policy is predicted to get under one command.

    Attributes:
        mean: Of the return to come, raw.
        low: Lower end of the 90% interval of the return to come.
        high: Its upper end.
        steps: Mean steps to come.
        failure: Probability of failure; NaN where the environment knows none.
    """

    mean: float
    low: float
    high: float
    steps: float
    failure: float


@dataclass(frozen=True)
class GuardedAnswer:
    """What an outcome guard makes of one command at one state.

    Attributes:
        predicted: Under the request.
        carried_out: The command that the guard carries out; the request itself, or another.
        replaced: Whether it is another.
        predicted_carried_out: Under that one.
        certificate: What is certified of the guard, or that nothing is, one sentence.
    """

    predicted: Prediction
    carried_out: Command
    replaced: bool
    predicted_carried_out: Prediction
    certificate: str

    def record(self) -> dict[str, Any]:
        """The answer as a plain dict, for JSON once NaN is null."""
        return asdict(self)


@torch.no_grad()
def ask_guard(
    guard: OutcomeGuard, certificate: Certificate, state: Sequence[float], command: Sequence[float]
) -> GuardedAnswer:
    """Asks a guard what the policy gets under a command given at a state, and what it does.

    Args:
        guard: By its certified rule.
        certificate: The guard's.
        state: [state_dim], raw.
        command: (horizon in steps, at least 1; return in raw reward).
    """
    device = guard.shield.device
    states, request = (
        torch.tensor([list(values)], dtype=torch.float32, device=device)
        for values in (state, command)
    )
    decision = guard.decide(states, request, request)
    horizon, ret = decision.command[0].tolist()
    return GuardedAnswer(
        predicted=_prediction(guard, states, request),
        carried_out=(horizon, ret),
        replaced=bool(decision.replaced),
        predicted_carried_out=_prediction(guard, states, decision.command),
        certificate=certificate_text(certificate).splitlines()[0],
    )


def guarded_lines(answer: GuardedAnswer, decimals: int | None) -> list[tuple[str, str]]:
    """The answer as (what, text) lines.

    Args:
        answer: From `ask_guard`.
        decimals: Of returns; None = 1.
    """
    digits = 1 if decimals is None else decimals
    done = "carried out as it is: no other command is predicted to be clearly better"
    if answer.replaced:
        other = command_words(answer.carried_out, digits)
        done = f"replaced by {other}, which {_gets(answer.predicted_carried_out, digits)}"
    return [
        ("policy", f"asked for this, it {_gets(answer.predicted, digits)}"),
        ("guard", done),
        ("certificate", answer.certificate),
    ]


def _gets(told: Prediction, digits: int) -> str:
    text = f"gets {number(told.low, digits)} to {number(told.high, digits)}"
    fails = "" if math.isnan(told.failure) else f", fails in {percent(told.failure)}"
    return f"{text} (in 90% of cases){fails}"


def _prediction(guard: OutcomeGuard, state: Tensor, command: Tensor) -> Prediction:
    told = guard.outcome.predict(state, command)
    named = (told.mean, told.low, told.high, told.steps, told.failure)
    return Prediction(*(float(value) for value in named))
