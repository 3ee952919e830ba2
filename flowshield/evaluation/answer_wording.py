"""A shield's answer in words, for the terminal."""

__all__ = ["answer_lines"]

import math

from flowshield.evaluation.answer import Answer
from flowshield.evaluation.cell_grid import Command
from flowshield.evaluation.wording import decimals_for, number

_NAMES = {"density": "log density", "achievability": "log P(so much, so soon)"}


def answer_lines(answer: Answer) -> list[tuple[str, str]]:
    """The answer as (what, text) lines."""
    return [
        ("command", _asked(answer.command)),
        ("verdict", _verdict(answer)),
        ("score", _score(answer)),
        ("false alarms", answer.promise),
        ("nearest", _nearest(answer)),
        ("returns", _ranges(answer)),
    ]


def _verdict(answer: Answer) -> str:
    if answer.supported:
        return "supported: the agent may be commanded it"
    return "NOT supported: the agent should not be commanded it"


def _score(answer: Answer) -> str:
    relation = "at or above" if answer.supported else "below"
    return (
        f"{_NAMES[answer.score_type]} {_nats(answer.score)}, {relation} the threshold "
        f"{_nats(answer.threshold)} (nats)"
    )


def _nearest(answer: Answer) -> str:
    if answer.supported:
        return "the command itself"
    text = f"{_asked(answer.nearest)}, score {_nats(answer.nearest_score)}"
    if answer.nearest_supported:
        return text
    return f"no supported command was found; the best found is {text}"


def _ranges(answer: Answer) -> str:
    horizon = f"at a horizon of {_steps(answer.command[0])}"
    if not answer.supported_returns:
        return f"none is supported {horizon}"
    ends = [end for pair in answer.supported_returns for end in pair]
    digits = max(1, decimals_for(ends))
    ranges = " and ".join(_range(low, high, digits) for low, high in answer.supported_returns)
    return f"{ranges}: supported {horizon}"


def _range(low: float, high: float, digits: int) -> str:
    if low == -math.inf:
        return "every return" if high == math.inf else f"up to {number(high, digits)}"
    if high == math.inf:
        return f"from {number(low, digits)} up"
    return f"{number(low, digits)} to {number(high, digits)}"


def _asked(command: Command) -> str:
    horizon, target = command
    return f"return {number(target, decimals_for([target]))} in {_steps(horizon)}"


def _steps(horizon: float) -> str:
    text = f"{horizon:.4g}"
    return f"{text} step" if text == "1" else f"{text} steps"


def _nats(score: float) -> str:
    return number(score, 2)
