"""One question of the report's first screen, answered."""

__all__ = ["Finding", "Tone"]

from typing import Literal, NamedTuple

Tone = Literal["plain", "good", "bad"]


class Finding(NamedTuple):
    """A question, its answer in a few words, and the numbers behind it."""

    question: str
    answer: str
    detail: str
    tone: Tone = "plain"
