"""One batch policy for the episodes that run in lockstep, whatever kind of behaviour they have."""

__all__ = ["draw_group"]

from collections.abc import Sequence
from itertools import cycle
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from flowshield.data.behaviour import Behaviour, EpisodePolicy, GroupBehaviour, GroupPolicy
from flowshield.envs import EnvWrapper
from flowshield.errors import ShapeError


def draw_group(
    behaviour: Behaviour,
    envs: Sequence[EnvWrapper],
    generators: Sequence[np.random.Generator],
    indices: Sequence[int],
) -> GroupPolicy:
    """Draws the policy of a group: the behaviour's own, or one made of a policy an episode.

    Args:
        behaviour: What draws.
        envs: Environments of one kind; number j of m plays the episodes j, j + m, j + 2 m, ...
        generators: The episodes' own.
        indices: Their indices in the collection.

    Raises:
        ConfigError: The environments lack what the behaviour needs.
    """
    if isinstance(behaviour, GroupBehaviour):
        return behaviour.draw_group(envs, generators, indices)
    drawn = [behaviour.draw(env, rng) for env, rng in zip(cycle(envs), generators, strict=False)]
    return GroupPolicy(
        _OnePolicyPerRow(drawn, envs[0]),
        [choice.behaviour for choice in drawn],
        [choice.level for choice in drawn],
        [choice.request for choice in drawn],
    )


class _OnePolicyPerRow:
    """A batch policy whose every row has a policy of its own."""

    def __init__(self, policies: Sequence[EpisodePolicy], env: EnvWrapper) -> None:
        self._policies, self._env = policies, env
        self._act = [policy.act for policy in policies]
        self._shape = (env.action_dim,)
        self._shapes = [self._shape] if env.n_actions is None else [self._shape, ()]

    def begin(self, states: NDArray[np.float32]) -> None:
        pass

    def act(self, states: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
        actions = np.empty((len(rows), *self._shape), np.float32)
        for place, row in enumerate(rows.tolist()):
            action = np.asarray(self._act[row](states[place]))
            if action.shape not in self._shapes:
                self._refuse(action.shape, row)
            actions[place] = action
        return actions

    def observe(self, rewards: NDArray[np.float64], rows: NDArray[np.intp]) -> None:
        pass

    def _refuse(self, shape: tuple[int, ...], row: int) -> NoReturn:
        raise ShapeError(
            f"policy {self._policies[row].behaviour!r} returned an action of shape {list(shape)}; "
            f"environment {self._env.name!r} expects {list(self._shape)}, one action for one state"
        )
