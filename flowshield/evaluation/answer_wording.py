"""A shield's answer in words, for the terminal."""

__all__ = ["SCORE_NAMES", "answer_lines"]

import math

from flowshield.evaluation.answer import Answer
from flowshield.evaluation.wording import command_words, decimals_for, number, steps_words

SCORE_NAMES = {"density": "log density", "achievability": "log P(so much, so soon)"}


def answer_lines(answer: Answer) -> list[tuple[str, str]]:
    """The answer as (what, text) lines."""
    return [
        ("command", command_words(answer.command)),
        ("verdict", _verdict(answer)),
        ("score", _score(answer)),
        ("false alarms", answer.promise),
        ("nearest", _nearest(answer)),
        ("returns", _ranges(answer)),
    ]


def _verdict(answer: Answer) -> str:
    if answer.supported:
        return "supported: the data's behaviour did so from states like this one"
    return "NOT supported: nothing in the data did so from states like this one"


def _score(answer: Answer) -> str:
    relation = "at or above" if answer.supported else "below"
    return (
        f"{SCORE_NAMES[answer.score_type]} {number(answer.score)}, {relation} the threshold "
        f"{number(answer.threshold)} (nats)"
    )


def _nearest(answer: Answer) -> str:
    if answer.supported:
        return "the command itself"
    nearest = command_words(answer.nearest, answer.return_decimals)
    text = f"{nearest}, score {number(answer.nearest_score)}"
    if answer.nearest_supported:
        return text
    return f"no supported command was found; the best found is {text}"


def _ranges(answer: Answer) -> str:
    horizon = f"at a horizon of {steps_words(answer.command[0])}"
    if not answer.supported_returns:
        return f"none is supported {horizon}"
    digits = answer.return_decimals
    if digits is None:
        digits = max(1, decimals_for(end for pair in answer.supported_returns for end in pair))
    ranges = " and ".join(_range(low, high, digits) for low, high in answer.supported_returns)
    return f"{ranges}: supported {horizon}"


def _range(low: float, high: float, digits: int) -> str:
    if low == -math.inf:
        return "every return" if high == math.inf else f"up to {number(high, digits)}"
    if high == math.inf:
        return f"from {number(low, digits)} up"
    return f"{number(low, digits)} to {number(high, digits)}"
