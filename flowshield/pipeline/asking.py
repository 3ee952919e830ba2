"""Asks a run's shield about a command, at a state that is given or that an episode comes by."""

__all__ = ["Question", "ask", "ask_guard_of", "outside_data", "state_in_episode"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.counted import counted
from flowshield.data import TrajectoryDataset
from flowshield.data.splitting import episodes_for
from flowshield.data.storage import dataset_exists
from flowshield.errors import ConfigError, DataError, FlowshieldError, ShapeError, UsageError
from flowshield.evaluation import Answer, ask_shield, run_episode
from flowshield.evaluation.cell_grid import Command
from flowshield.evaluation.guarded_answer import GuardedAnswer, ask_guard
from flowshield.filesystem import is_uri
from flowshield.models import BaseShield, OutcomeGuard
from flowshield.models.shields import episodes_needed
from flowshield.pipeline.collecting import dataset_path
from flowshield.pipeline.run_verdict import run_first_look
from flowshield.pipeline.trained_run import TrainedRun


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        command: (horizon in steps, return in raw reward).
        state: The state's numbers; None = that of an episode.
        seed: Of the episode's reset, as Gymnasium takes it.
        step: Steps of the episode that lie behind the state.
        follow: The command that the agent follows in the episode; None = the first of the run's
            grid (`env.commands`).
        shield: Name; None = the run's best by its verdict, or its only one.
        alpha: False-alarm rate; None = the calibrated one.
    """

    command: Sequence[float]
    state: Sequence[float] | None = None
    seed: int = 0
    step: int = 0
    follow: Sequence[float] | None = None
    shield: str | None = None
    alpha: float | None = None


def ask(run: TrainedRun, question: Question) -> tuple[dict[str, Any], Answer]:
    """Answers a question.

    Returns:
        Where the answer comes from ("run", "shield", "chosen" (why that shield), "state", "outside"
        (`outside_data`; None where the run's dataset is not on this disk), "bound" (no policy gets
        a higher return from the state; None where the environment knows none or is not there),
        "first_look" (that the run's figures are from too few episodes to decide by; None where
        they are not) and, for an episode's state, "seed", "step" and "follows") and the answer.

    Raises:
        UsageError: The question cannot be asked of this run; the message says what can.
    """
    choice = run.choice(question.shield)
    shield = run.shield(choice.name)[1]
    _promise(shield, question.alpha, dict(run.config.data.split))
    source: dict[str, Any] = {"run": run.folder.place, "shield": choice.name, "chosen": choice.why}
    if question.state is None:
        follow = _command(question.follow or run.config.env.commands[0])
        state = state_in_episode(run, question.seed, question.step, follow).tolist()
        source |= {"seed": question.seed, "step": question.step, "follows": list(follow)}
    else:
        state = list(question.state)
    try:
        answer = ask_shield(shield, state, question.command)
    except (DataError, ShapeError) as error:
        raise UsageError(str(error)) from error
    told = {"state": state, "outside": _outside(run, state), "bound": _bound(run, state)}
    return {**source, **told, "first_look": run_first_look(run.folder, shield)}, answer


def ask_guard_of(
    run: TrainedRun, shield: str, state: Sequence[float], command: Sequence[float]
) -> GuardedAnswer | str:
    """What a run's guard makes of a command, or one sentence why that is not known.

    Args:
        run: A trained run.
        shield: Name.
        state: [state_dim], raw.
        command: (horizon in steps, at least 1; return in raw reward).
    """
    kind = run.config.guard.kind
    if kind != "outcome":
        return f"not known: the run has guard.kind={kind}, which predicts nothing"
    try:
        guard, certificate = run.guard(shield), run.certificate(shield)
        assert isinstance(guard, OutcomeGuard)
        guard.check_policy(run.agent())
    except (UsageError, ConfigError) as error:
        return f"not known: {error}"
    return ask_guard(guard, certificate, state, command)


def outside_data(states: ArrayLike, state: ArrayLike) -> list[dict[str, float]]:
    """The components of a state that lie beyond those of all states of the data.

    A shield extrapolates there: neither its verdict nor its false-alarm rate means anything.

    Args:
        states: Of the data, [n, state_dim].
        state: [state_dim].

    Returns:
        "component" (from 0), "value", and "low" and "high" of the data, for each such.
    """
    rows, row = np.asarray(states, np.float32), np.asarray(state, np.float32)
    low, high = rows.min(axis=0), rows.max(axis=0)
    return [
        {"component": int(i), "value": float(row[i]), "low": float(low[i]), "high": float(high[i])}
        for i in np.flatnonzero((row < low) | (row > high))
    ]


def _bound(run: TrainedRun, state: Sequence[float]) -> float | None:
    try:
        env = run.make_env()
    except (ConfigError, UsageError):  # a state that is given needs no environment
        return None
    bound = env.return_bound(np.asarray([state], np.float32))
    env.close()
    return None if bound is None else float(bound[0])


def _outside(run: TrainedRun, state: Sequence[float]) -> list[dict[str, float]] | None:
    path = dataset_path(run.config, run.folder)
    if is_uri(path) or not dataset_exists(path):
        return None
    try:
        states = TrajectoryDataset(path).states
    except FlowshieldError:  # the question is about the shield, which does not need it
        return None
    return outside_data(states, state) if states.shape[1] == len(state) else None


def state_in_episode(run: TrainedRun, seed: int, step: int, follow: Command) -> NDArray[np.float32]:
    """The state [state_dim] after so many steps of an episode of the run's agent, unshielded.

    Raises:
        UsageError: The seed or step is negative, or the episode ends before.
    """
    if seed < 0 or step < 0:
        raise UsageError(f"expected a seed and a step of at least 0, got {seed} and {step}")
    env = run.make_env()
    try:
        deterministic = run.config.env.deterministic
        episode = run_episode(
            env, run.agent(), follow, seed=seed, deterministic=deterministic
        ).episode
    finally:
        env.close()
    if step >= episode.length:
        raise UsageError(
            f"the episode with seed {seed} ends after {counted(episode.length, 'step')}: choose a "
            f"step from 0 to {episode.length - 1}, got {step}"
        )
    state: NDArray[np.float32] = episode.states[step]
    return state


def _promise(shield: BaseShield, alpha: float | None, split: dict[str, float]) -> None:
    """Lets the shield promise another false-alarm rate, where its calibration has scores enough."""
    if alpha is None:
        return
    calibration = shield.calibration_in_force()
    try:
        shield.calibration = calibration.at(alpha)
    except DataError as error:
        told = str(error)
        if 0.0 < alpha < 1.0 and min(calibration.n) < episodes_needed(alpha):
            total = episodes_for(episodes_needed(alpha), "calibration", split)
            told += f"; by this run's data.split that takes {counted(total, 'episode')} in all"
        raise UsageError(told) from error


def _command(values: Sequence[float]) -> Command:
    horizon, target = map(float, values)
    if not (1 <= horizon < math.inf and math.isfinite(target)):
        raise UsageError(
            f"expected a command (horizon of at least 1 step, finite return), got "
            f"({horizon:g}, {target:g})"
        )
    return horizon, target
