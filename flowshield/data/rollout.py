"""The one function that lets policies act in environments."""

__all__ = ["BatchPolicy", "rollout", "step_limit"]

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flowshield.data.episode import Episode
from flowshield.data.recording import Recording
from flowshield.envs import EnvWrapper, initial_state
from flowshield.envs.outcomes import (
    FLAG_TYPES,
    NUMBER_TYPES,
    checked_outcome,
    other_api,
)
from flowshield.errors import ConfigError, ShapeError

_FLOAT32 = np.dtype(np.float32)


class BatchPolicy(Protocol):
    """Acts in n episodes, which are its rows 0..n-1.

    Finished episodes drop out, and some may wait for an environment, so the arrays of `act` and
    `observe` hold the k rows that `rows` names. They go into the record of the episodes: a policy
    must not write into them.
    """

    def begin(self, states: NDArray[np.float32]) -> None:
        """Hears that n episodes start in these states [n, state_dim]; NaN where one waits."""

    def act(self, states: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[Any]:
        """Chooses the actions [k, action_dim] for the states [k, state_dim] of the rows [k]."""

    def observe(self, rewards: NDArray[np.float64], rows: NDArray[np.intp]) -> None:
        """Hears the rewards [k] that the last actions of the rows [k] brought."""


def rollout(
    envs: Sequence[EnvWrapper],
    policy: BatchPolicy,
    seeds: Sequence[int],
    *,
    indices: Sequence[int] | None = None,
    render: bool = False,
) -> list[Episode]:
    """Plays episodes in environments, in lockstep, with one policy call per step.

    With m environments, number j plays the episodes j, j + m, j + 2 m, ... one after the other, so
    that it rests only when it has no more.

    Continuous actions are clipped to the action bounds before they are carried out and recorded.
    An episode ends when the environment says so, and is truncated after the environment's
    `max_episode_steps` even if the environment itself goes on.

    Args:
        envs: Environments of one kind.
        policy: What acts in all of them.
        seeds: Seeds of the resets, one per episode, for each environment at least one.
        indices: Indices of the episodes, for their records and for error messages; 0..n-1 if None.
        render: Calls `render` of every environment after its steps. One made with
            render_mode="human" draws itself without being asked.

    Returns:
        One episode per seed, in their order, with no behaviour named.

    Raises:
        ConfigError: There are no environments, fewer seeds than environments, or an environment
            never ends.
        ShapeError: The environments differ in their sizes, or the policy's actions have another
            shape than [k, action_dim].
        DataError: A state, reward or action is NaN or infinite, a discrete action is none, or an
            environment is not of Gymnasium's API, or gives states of another shape than promised.
    """
    limits = _check(envs, seeds)
    recording = Recording(envs[0].name, range(len(seeds)) if indices is None else indices)
    # an entry for each episode that plays now, where `rows` says which
    rows, steps_left = np.arange(len(envs)), limits.copy()
    states = np.stack([initial_state(env, seed) for env, seed in zip(envs, seeds, strict=False)])
    recording.check_outcome(rows, states)
    policy.begin(_of_all(states, len(seeds)))
    while len(rows):
        actions = envs[0].as_actions(policy.act(states, rows), len(rows))
        recording.check_actions(rows, actions)
        # a copy: there are environments that write into the numbers that they get
        acted = actions.copy() if envs[0].n_actions is None else actions
        outcome = _step(envs, rows, acted, render, recording)
        next_states, rewards, terminated, truncated = outcome
        recording.check_outcome(rows, next_states, rewards)
        policy.observe(rewards, rows)
        recording.add(rows, states, actions, rewards)
        states = next_states
        steps_left -= 1
        ended = terminated | truncated | (steps_left == 0)
        if ended.any():
            recording.finish(rows, states, terminated, truncated | ended & ~terminated)
            rows = np.where(ended, rows + len(envs), rows)
            left = rows < len(seeds)
            rows, states, steps_left = rows[left], states[left], steps_left[left]
            for place in np.flatnonzero(ended[left]).tolist():
                number = rows[place] % len(envs)
                states[place] = initial_state(envs[number], seeds[rows[place]])
                steps_left[place] = limits[number]
            recording.check_outcome(rows, states)
    return recording.episodes()


def _of_all(states: NDArray[np.float32], n_episodes: int) -> NDArray[np.float32]:
    later = np.full((n_episodes - len(states), states.shape[1]), np.nan, np.float32)
    return np.concatenate([states, later]) if len(later) else states


def _check(envs: Sequence[EnvWrapper], seeds: Sequence[int]) -> NDArray[np.intp]:
    if not 1 <= len(envs) <= len(seeds):
        raise ConfigError(
            f"expected at least one environment and for each at least one seed, "
            f"got {len(envs)} environments and {len(seeds)} seeds"
        )
    sizes = {(env.state_dim, env.action_dim) for env in envs}
    if len(sizes) > 1:
        raise ShapeError(
            f"expected environments of one kind, got (state_dim, action_dim) {sorted(sizes)}"
        )
    return np.array([step_limit(env) for env in envs])


def step_limit(env: EnvWrapper) -> int:
    """Steps after which an episode is cut off.

    Raises:
        ConfigError: Nothing cuts it off.
    """
    if env.max_episode_steps is None:
        raise ConfigError(
            f"environment {env.name!r} has no step limit, so an episode might never end: pass "
            "max_episode_steps to make_env (+env.kwargs.max_episode_steps=1000 on the command "
            "line), or wrap it in gymnasium.wrappers.TimeLimit"
        )
    return env.max_episode_steps


def _step(
    envs: Sequence[EnvWrapper],
    rows: NDArray[np.intp],
    actions: NDArray[Any],
    render: bool,
    recording: Recording,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    n_envs, n, size = len(envs), len(rows), envs[0].state_dim
    states, rewards = np.empty((n, size), np.float32), np.empty(n, np.float64)
    terminated, truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    shape = (size,)
    try:
        for place, row in enumerate(rows.tolist()):
            env = envs[row % n_envs]
            state, reward, ended, cut, _ = env.step(actions[place])
            # numpy would fill the row with a state of another shape, and take anything for a flag
            if not (
                type(state) is np.ndarray
                and state.shape == shape
                and state.dtype.kind in "fiub"
                and type(reward) in NUMBER_TYPES
                and type(ended) in FLAG_TYPES
                and type(cut) in FLAG_TYPES
            ):
                given = (state, reward, ended, cut)
                state, reward, ended, cut = checked_outcome(env, given, recording.where, row)
            if state.dtype is _FLOAT32:
                states[place] = state
            else:
                with np.errstate(over="raise"):
                    states[place] = state
            rewards[place], terminated[place], truncated[place] = reward, ended, cut
            if render:
                env.render()
    except (TypeError, ValueError) as error:
        if refusal := other_api(env, error):
            raise refusal from error
        raise
    except (FloatingPointError, OverflowError) as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            # a state that float32 does not hold, or a whole number as the reward that no float does
            checked_outcome(env, (state, reward, ended, cut), recording.where, row)
        raise
    return states, rewards, terminated, truncated
