"""Every measurement of an evaluation, one record at a time, so that they can be spread out."""

__all__ = ["Evaluator", "Measurement", "Subjects"]

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flowshield.data import TrajectoryDataset
from flowshield.envs import EnvWrapper
from flowshield.evaluation.agent import EvaluatedEpisode, evaluate_agent, run_batch
from flowshield.evaluation.cell_grid import UNSHIELDED, Command
from flowshield.evaluation.follow import evaluate_followed
from flowshield.evaluation.follow_record import followed_record
from flowshield.evaluation.lent_bound import lend_return_bound
from flowshield.evaluation.probing import ProbePlan, probed
from flowshield.evaluation.records import cell_record, shield_record
from flowshield.models import BaseShield, Guard, OutcomeGuard, UDRLAgent

Measurement = tuple[str, tuple[Any, ...]]
"""The name of one of the evaluator's methods, and its arguments."""


@dataclass(frozen=True)
class Subjects:
    """What is evaluated, and on what; it can be sent to another process.

    Attributes:
        agent: The policy.
        shields: Calibrated, by name.
        make_env: Makes one environment.
        test: Episodes that trained, selected and calibrated nothing.
        commands: The grid, (horizon in steps, return in raw reward).
        seed: Of every draw.
        n_episodes: Episodes a cell.
        n_states: Held-out steps on which detection is measured.
        bound_margin: How far above the provable bound impossible commands ask, raw reward.
        n_starts: Starts at which each shield is asked what it supports.
        n_commands: Supported commands a start.
        return_tolerance: A return counts as met within this, raw reward.
        deterministic: Whether the agent takes its mean, or likeliest, action.
        use_return_bound: Whether the environment lends the shields its provable bound.
        return_grid: What the returns of supported commands are multiples of; None = of nothing.
        guards: What replaces commands in the cells of a shield, by its name; a shield without one
            is its own `SupportGuard`.
        plan: Which episodes are probed; None = none.
    """

    agent: UDRLAgent
    shields: Mapping[str, BaseShield]
    make_env: Callable[[], EnvWrapper]
    test: TrajectoryDataset
    commands: Sequence[Command]
    seed: int
    n_episodes: int
    n_states: int
    bound_margin: float
    n_starts: int
    n_commands: int
    return_tolerance: float
    deterministic: bool = True
    use_return_bound: bool = False
    return_grid: float | None = None
    guards: Mapping[str, Guard] = field(default_factory=dict)
    plan: ProbePlan | None = None

    def with_guards(self, guards: Mapping[str, Guard]) -> "Subjects":
        """The same subjects, where these guards act."""
        return replace(self, guards=guards)

    def guard(self, name: str) -> BaseShield | Guard:
        """What acts in the cells of a shield."""
        return self.guards.get(name) or self.shields[name]


class Evaluator:
    """Makes the records of results.json; the same arguments give the same record anywhere.

    Args:
        subjects: What is evaluated.
    """

    def __init__(self, subjects: Subjects) -> None:
        self.subjects = subjects
        self._envs: list[EnvWrapper] = []
        if subjects.use_return_bound:
            for shield in subjects.shields.values():
                lend_return_bound(shield, subjects.make_env())

    def measure_all(
        self, measurements: Iterable[Measurement]
    ) -> Iterator[tuple[Measurement, dict[str, Any]]]:
        """Makes all of these records; yields each with what was asked."""
        for measurement in measurements:
            yield measurement, self.measure(measurement)

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        """Makes one record: calls the method of that name."""
        name, arguments = measurement
        record: dict[str, Any] = getattr(self, name)(*arguments)
        return record

    def cell(
        self, guard: str, command: Command, unshielded: Sequence[float] | None
    ) -> dict[str, Any]:
        """The agent under one command.

        Args:
            guard: A shield's name, or "none".
            command: Of the grid.
            unshielded: Returns of the same starts without a shield; None for these themselves.
        """
        subjects = self.subjects
        cell = evaluate_agent(
            subjects.agent,
            self._some(subjects.n_episodes),
            command,
            None if guard == UNSHIELDED else subjects.guard(guard),
            n_episodes=subjects.n_episodes,
            seed=subjects.seed,
            deterministic=subjects.deterministic,
        )
        return cell_record(cell, unshielded)

    def followed(self, name: str) -> dict[str, Any]:
        """The agent alone on commands that a shield supports."""
        subjects = self.subjects
        followed = evaluate_followed(
            subjects.agent,
            self._some(subjects.n_starts * subjects.n_commands),
            subjects.shields[name],
            n_starts=subjects.n_starts,
            n_commands=subjects.n_commands,
            seed=subjects.seed,
            deterministic=subjects.deterministic,
            return_grid=subjects.return_grid,
        )
        return followed_record(followed, subjects.return_tolerance)

    def shield(self, name: str) -> dict[str, Any]:
        """A shield's detection, calibration and projection on held-out steps."""
        subjects = self.subjects
        return shield_record(
            subjects.shields[name],
            subjects.test,
            list(subjects.commands),
            n_states=subjects.n_states,
            margin=subjects.bound_margin,
            seed=subjects.seed,
        )

    def probed(self, part: str, indices: Sequence[int]) -> dict[str, list[EvaluatedEpisode]]:
        """Episodes of the agent alone, see `probed`."""
        subjects = self.subjects
        assert subjects.plan is not None
        episodes = probed(
            subjects.plan,
            part,
            indices,
            self._some(len(indices)),
            subjects.agent,
            list(subjects.shields.values()),
            deterministic=subjects.deterministic,
            return_grid=subjects.return_grid,
        )
        return {"episodes": episodes}

    def guarded(
        self,
        name: str,
        rule: float,
        commands: Sequence[Command],
        seeds: Sequence[int],
        number: int,
    ) -> dict[str, list[EvaluatedEpisode]]:
        """Episodes under a shield's outcome guard by a rule, from given starts.

        Args:
            name: Of the shield.
            rule: See `OutcomeGuard`.
            commands: One per episode.
            seeds: Of the resets.
            number: Of the measurement, by which its record is known.
        """
        subjects = self.subjects
        guard = subjects.guards[name]
        assert isinstance(guard, OutcomeGuard)
        envs, guard = self._some(len(seeds)), guard.with_rule(rule)
        deterministic = subjects.deterministic
        return {"episodes": run_batch(envs, subjects.agent, commands, guard, seeds, deterministic)}

    def close(self) -> None:
        """Closes the environments."""
        while self._envs:
            self._envs.pop().close()

    def _some(self, n: int) -> list[EnvWrapper]:
        """So many environments, made once."""
        while len(self._envs) < n:
            self._envs.append(self.subjects.make_env())
        return self._envs[:n]
