"""Behaviour policies: who acts in an episode, drawn from the episode's own randomness."""

__all__ = [
    "Behaviour",
    "CallableBehaviour",
    "EpisodeBehaviour",
    "EpisodePolicy",
    "GroupBehaviour",
    "GroupPolicy",
    "MixtureBehaviour",
    "as_behaviour",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from flowshield.data.behaviour_config import Component, read_components
from flowshield.data.behaviour_kinds import KINDS, StatePolicy
from flowshield.data.rollout import BatchPolicy
from flowshield.envs import EnvWrapper
from flowshield.errors import ConfigError


class EpisodePolicy(NamedTuple):
    """What a behaviour drew for one episode.

    Attributes:
        behaviour: Name of what was drawn.
        level: Its level; NaN where it has none.
        act: The policy, state [state_dim] -> action [action_dim].
        request: Command (horizon in steps, return in raw reward) that the policy was given; None
            where it was given none.
    """

    behaviour: str
    level: float
    act: StatePolicy
    request: tuple[float, float] | None = None


class GroupPolicy(NamedTuple):
    """What a behaviour drew for n episodes that run in lockstep.

    Attributes:
        policy: Acts in all of them, one row an episode.
        behaviours: Name of what was drawn for each [n].
        levels: Level of each [n]; NaN where it has none.
        requests: Command (horizon in steps, return in raw reward) that the policy was given in each
            [n], None where it was given none; None where it was given none in any.
    """

    policy: BatchPolicy
    behaviours: Sequence[str]
    levels: Sequence[float]
    requests: Sequence[tuple[float, float] | None] | None = None


@runtime_checkable
class EpisodeBehaviour(Protocol):
    """Gives each episode a policy of its own."""

    def draw(self, env: EnvWrapper, rng: np.random.Generator) -> EpisodePolicy:
        """Draws the policy of one episode, which may go on drawing from the same generator.

        Raises:
            ConfigError: The environment lacks what the behaviour needs.
        """

    def describe(self) -> dict[str, Any]:
        """Gives what a dataset's metadata shall say about the behaviour, fit for JSON."""


@runtime_checkable
class GroupBehaviour(Protocol):
    """Gives episodes that run in lockstep one policy: a network acts in all of them in one call.

    Which episodes run together depends on who collects them. So what an episode gets and how its
    policy acts may depend on nothing but its own environment, generator and index.
    """

    def draw_group(
        self,
        envs: Sequence[EnvWrapper],
        generators: Sequence[np.random.Generator],
        indices: Sequence[int],
    ) -> GroupPolicy:
        """Draws the policy of the episodes with these indices, which may go on drawing.

        Number j of m environments plays the episodes j, j + m, j + 2 m, ... of the group.

        Raises:
            ConfigError: The environments lack what the behaviour needs.
        """

    def describe(self) -> dict[str, Any]:
        """Gives what a dataset's metadata shall say about the behaviour, fit for JSON."""


Behaviour = EpisodeBehaviour | GroupBehaviour


@dataclass(frozen=True)
class MixtureBehaviour:
    """A mixture of kinds: each episode draws one by weight, then one of its levels evenly.

    Attributes:
        components: The kinds with their weights and levels.
    """

    components: tuple[Component, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "MixtureBehaviour":
        """Builds a mixture from a mapping like those in `configs/behaviour/`.

        Args:
            config: `{"components": [{"kind": ..., "weight": ..., "levels": [...]}, ...]}`.

        Raises:
            ConfigError: A kind or key is unknown, a weight is not positive, or levels are missing,
                out of range, or given to a kind that has none.
        """
        return cls(read_components(config))

    def draw(self, env: EnvWrapper, rng: np.random.Generator) -> EpisodePolicy:
        """Draws one component and level for one episode; see `EpisodeBehaviour.draw`."""
        self._check_controller(env)
        weights = np.array([component.weight for component in self.components])
        component = self.components[int(rng.choice(len(weights), p=weights / weights.sum()))]
        levels = component.levels
        level = levels[int(rng.integers(len(levels)))] if levels else float("nan")
        act = KINDS[component.kind].make(env, rng, level)
        return EpisodePolicy(component.kind, level, act)

    def describe(self) -> dict[str, Any]:
        """Gives the config from which this mixture can be built again."""
        return {
            "components": [
                {"kind": part.kind, "weight": part.weight, "levels": list(part.levels)}
                if part.levels
                else {"kind": part.kind, "weight": part.weight}
                for part in self.components
            ]
        }

    def _check_controller(self, env: EnvWrapper) -> None:
        # Every component, not the drawn one: else the collection would fail at a random episode.
        needy = [part.kind for part in self.components if KINDS[part.kind].needs_controller]
        if needy and not env.has_controller:
            raise ConfigError(
                f"behaviour {needy[0]!r} needs a controller, and environment {env.name!r} brings "
                "none: use behaviour=random or pass your own policy, a callable state -> action"
            )


@dataclass(frozen=True)
class CallableBehaviour:
    """The user's own policy in every episode.

    Attributes:
        policy: A callable state [state_dim] -> action [action_dim]. Whatever randomness it has is
            its own, so repeating a collection to the byte is in its hands.
        name: What the dataset calls it.
    """

    policy: StatePolicy
    name: str

    def draw(self, env: EnvWrapper, rng: np.random.Generator) -> EpisodePolicy:
        """Gives the user's policy; see `EpisodeBehaviour.draw`."""
        return EpisodePolicy(self.name, float("nan"), self.policy)

    def describe(self) -> dict[str, Any]:
        """Gives the policy's name."""
        return {"policy": self.name}


def as_behaviour(value: Any) -> Behaviour:
    """Makes a behaviour of whatever a user may give.

    Args:
        value: A behaviour, a config mapping, a callable state -> action, or None for uniformly
            random actions.

    Raises:
        ConfigError: It is none of these, or the mapping is not valid.
    """
    if value is None:
        return MixtureBehaviour((Component("random", 1.0),))
    if isinstance(value, Mapping):
        return MixtureBehaviour.from_config(value)
    if isinstance(value, Behaviour):
        return value
    if callable(value):
        return CallableBehaviour(value, getattr(value, "__name__", type(value).__name__))
    raise ConfigError(
        f"expected a callable state -> action, a behaviour config or None, got {value!r}"
    )
