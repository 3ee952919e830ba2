"""One face for everything that steps environments, and what was measured of it."""

__all__ = ["Contender", "Measurement", "Stepping", "interleave"]

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, Self

from rounds import ratio


class Contender(Protocol):
    """Steps environments for a while when asked to; entering it starts it."""

    def __enter__(self) -> Self:
        """Starts its processes and makes its environments; returns when the first can step."""

    def __exit__(self, *_: object) -> None:
        """Ends its processes."""

    def speed(self, seconds: float) -> float:
        """Environment steps a second over about so many seconds, once it is under way."""


class Stepping(ABC):
    """Part of a contender that steps in this process, as often as there is time."""

    @abstractmethod
    def advance(self) -> int:
        """Steps once what there is, and says how many environment steps that was."""

    def speed(self, seconds: float) -> float:
        """Environment steps a second over about so many seconds."""
        n_steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            n_steps += self.advance()
        return n_steps / (time.perf_counter() - start)


@dataclass
class Measurement:
    """One contender under one policy.

    Attributes:
        contender: Its name.
        policy: "random" or "network".
        startup_seconds: Until it was ready, Ray's own start left out.
        steps_per_second: One number a round.
    """

    contender: str
    policy: str
    startup_seconds: float = 0.0
    steps_per_second: list[float] = field(default_factory=list)

    def times(self, other: "Measurement") -> float:
        """Median over the rounds of this speed as a multiple of the other's."""
        return ratio(self.steps_per_second, other.steps_per_second)


def interleave(
    contenders: Sequence[tuple[str, Callable[[], Contender]]],
    policy: str,
    seconds: float,
    rounds: int,
) -> list[Measurement]:
    """Starts all, then lets them take turns, so that what else the machine does falls on all alike.

    Args:
        contenders: Names, and what makes each for this policy.
        policy: Its name.
        seconds: Time of a turn. The first round warms up and does not count.
        rounds: Turns of each.
    """
    with ExitStack() as running:
        started: list[tuple[Measurement, Contender]] = []
        for name, make in contenders:
            start = time.perf_counter()
            contender = running.enter_context(make())
            found = Measurement(name, policy, time.perf_counter() - start)
            started.append((found, contender))
        for number in range(rounds + 1):
            for found, contender in started:
                speed = contender.speed(seconds)
                if number > 0:
                    found.steps_per_second.append(speed)
    return [found for found, _ in started]
