"""The view of an environment that the rest of flowshield works with."""

__all__ = ["EnvWrapper"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from flowshield.envs.known_answer import KnownAnswer
from flowshield.envs.making import make_gymnasium_env
from flowshield.errors import ConfigError, ShapeError
from flowshield.room import MEMORY_COPIES, free_memory, in_words

# Some environments write "no bound" as the largest float32 instead of infinity.
_LARGEST_BOUND = 1e30

_PICTURE_SIDE = 24
_MOST_STEPS = 2**62  # what is more fits no counter, and is somebody's word for no limit


class EnvWrapper(gym.Wrapper[Any, Any, Any, Any], ABC):
    """An environment with a vector of numbers as its state.

    What its actions are, a subclass says: `ContinuousEnvWrapper` or `DiscreteEnvWrapper`. One of
    these may lend knowledge that only its environment has: a controller, what counts as a crash, a
    bound on the return. The base class knows none of these and says so.

    Args:
        env: A Gymnasium environment, or the id of one. Box observations with more than one
            dimension are flattened, unless they are pictures.
        name: What error messages and files call it; by default the Gymnasium id.
        flatten_images: Whether to flatten pictures, too: a state is then as long as a picture has
            numbers.

    Attributes:
        state_dim: Length of the state vector.
        action_dim: Length of an action; 1 where actions are discrete.
        n_actions: Number of discrete actions; None where actions are continuous.
        max_episode_steps: Steps after which an episode is cut off; None where nothing cuts it off.
        name: What error messages and files call it.
        make_kwargs: The arguments that `make_env(name, ...)` needs to build this environment again.

    Raises:
        ConfigError: The id is unknown, observations or actions are of another kind than the class
            takes, or observations are pictures.
    """

    action_dim: int
    n_actions: int | None
    has_controller: ClassVar[bool] = False
    knows_crash: ClassVar[bool] = False
    # what an episode did that the environment ended, and not in a crash
    safe_end: ClassVar[str] = "ended"

    def __init__(
        self,
        env: gym.Env[Any, Any] | str,
        *,
        name: str | None = None,
        flatten_images: bool = False,
    ) -> None:
        made = make_gymnasium_env(env) if isinstance(env, str) else env
        if not isinstance(made, gym.Env):
            raise ConfigError(
                f"expected a gymnasium.Env or the id of one, got {type(env).__name__}; "
                "old gym environments can be converted with the package shimmy"
            )
        label = name or (made.spec.id if made.spec else type(made.unwrapped).__name__)
        super().__init__(_with_flat_observations(made, label, flatten_images))
        self.name: str = label
        self.make_kwargs: dict[str, Any] = dict(made.spec.kwargs) if made.spec else {}
        if flatten_images:
            self.make_kwargs["flatten_images"] = True
        self.max_episode_steps: int | None = _step_limit(made)
        observations = self.observation_space
        assert isinstance(observations, gym.spaces.Box)  # _with_flat_observations has seen to it
        self.state_dim: int = observations.shape[0]
        self._center, self._half_width = _affine_bounds(observations)
        self._read_actions()

    @abstractmethod
    def _read_actions(self) -> None:
        """Takes what is to be known of the action space; raises a ConfigError for another kind."""

    @abstractmethod
    def as_actions(self, values: Any, n_rows: int) -> NDArray[Any]:
        """Brings what a policy chose to the form in which it is carried out and recorded.

        Args:
            values: The policy's actions, [n_rows, action_dim].
            n_rows: How many there should be.

        Returns:
            Actions [n_rows, action_dim] inside the action space; what is not finite stays.

        Raises:
            ShapeError: They have another shape.
            DataError: Discrete actions are not among those that there are.
        """

    @abstractmethod
    def uniform_policy(self, rng: np.random.Generator) -> Callable[[Any], NDArray[Any]]:
        """A policy, state -> action [action_dim], that draws its actions uniformly.

        Raises:
            ConfigError: The action space has no bounds, so that nothing is uniform over it.
        """

    @abstractmethod
    def action_facts(self) -> dict[str, Any]:
        """What a dataset's metadata say about the actions, fit for JSON."""

    def _check_rows(self, values: NDArray[Any], n_rows: int) -> None:
        if values.shape != (n_rows, self.action_dim):
            raise ShapeError(
                f"the policy returned actions of shape {list(values.shape)} for {n_rows} states "
                f"of {self.name!r}; expected [{n_rows}, {self.action_dim}], one action per state"
            )

    def normalize_state(self, state: NDArray[Any]) -> NDArray[Any]:
        """Maps bounded dimensions to [-1, 1] and leaves unbounded ones as they are.

        Args:
            state: States [..., state_dim] in the environment's units.

        Returns:
            Array [..., state_dim] of the same floating type; a state outside the bounds lands
            outside [-1, 1].

        Raises:
            ShapeError: The last dimension is not state_dim.
        """
        values = self._as_states(state)
        return ((values - self._center) / self._half_width).astype(values.dtype)

    def denormalize_state(self, state: NDArray[Any]) -> NDArray[Any]:
        """Undoes `normalize_state`.

        Args:
            state: Normalized states [..., state_dim].

        Returns:
            Array [..., state_dim] of the same floating type, in the environment's units.

        Raises:
            ShapeError: The last dimension is not state_dim.
        """
        values = self._as_states(state)
        return (values * self._half_width + self._center).astype(values.dtype)

    def controller(self, state: NDArray[Any]) -> NDArray[Any]:
        """Gives the action [action_dim] of a controller that does well in this environment.

        Args:
            state: One state [state_dim] in the environment's units.

        Raises:
            ConfigError: This environment brings no controller (`has_controller` is False).
        """
        raise ConfigError(
            f"environment {self.name!r} brings no controller: use a behaviour without one "
            "(kind: random) or pass your own policy, a callable state -> action"
        )

    @property
    def known_answer(self) -> KnownAnswer | None:
        """The exact p(H, R | s) of the uniformly random behaviour, or None where it is not known.

        `flowshield.evaluation.evaluate_known_answer` measures a shield against it.
        """
        return None

    def crashed(self, terminated: bool, last_reward: float) -> bool:
        """Says whether an episode ended in a crash; False where crashes are not known.

        Args:
            terminated: Whether the environment itself ended the episode.
            last_reward: Reward of the last step.
        """
        return False

    def return_bound(self, states: NDArray[Any]) -> NDArray[np.float64] | None:
        """Gives a return that no policy can exceed from these states, or None if none is known.

        Args:
            states: States [..., state_dim] in the environment's units.

        Returns:
            Bounds [...] on the undiscounted sum of the rewards still to come.
        """
        return None

    def _as_states(self, state: NDArray[Any]) -> NDArray[Any]:
        values = np.asarray(state)
        if values.ndim == 0 or values.shape[-1] != self.state_dim:
            raise ShapeError(
                f"expected states [..., {self.state_dim}] of environment {self.name!r}, "
                f"got shape {list(values.shape)}"
            )
        return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)


def _with_flat_observations(
    env: gym.Env[Any, Any], name: str, flatten_images: bool
) -> gym.Env[Any, Any]:
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box):
        raise ConfigError(
            f"environment {name!r} has observations {space}; supported are Box observations: "
            f"{_way_to_a_box(space)}"
        )
    if _is_picture(space) and not flatten_images:
        raise ConfigError(_picture_refused(space, name))
    return env if len(space.shape) == 1 else gym.wrappers.FlattenObservation(env)


def _way_to_a_box(space: Any) -> str:
    try:
        fixed = isinstance(gym.spaces.flatten_space(space), gym.spaces.Box)
    except NotImplementedError:  # a space of somebody's own
        fixed = False
    if fixed:
        return "wrap it in gymnasium.wrappers.FlattenObservation"
    return (
        "these have no fixed number of numbers, so write a gymnasium.ObservationWrapper that makes "
        "a vector of one length of them"
    )


def _is_picture(space: gym.spaces.Box) -> bool:
    """Whether observations are pictures: bytes in rows and columns, or many rows and columns."""
    if space.dtype == np.uint8:
        return len(space.shape) > 1
    return sum(size >= _PICTURE_SIDE for size in space.shape) > 1


def _picture_refused(space: gym.spaces.Box, name: str) -> str:
    numbers, memory = math.prod(space.shape), free_memory()
    step = 4 * numbers
    return (
        f"environment {name!r} has pictures as observations, {list(space.shape)} {space.dtype}: a "
        f"state would be {numbers:,} numbers, {in_words(step)} a step, and the {in_words(memory)} "
        f"of memory that are left hold {memory // (MEMORY_COPIES * step):,} steps. Make a few "
        "hundred features of a picture: docs/guides/own_environment.md shows a wrapper. Or flatten "
        "it all the same: flatten_images=True; on the command line +env.kwargs.flatten_images=true"
    )


def _step_limit(env: gym.Env[Any, Any]) -> int | None:
    # A TimeLimit around an unregistered environment shows in no spec, only in the wrapper.
    own = "_max_episode_steps"
    steps = _as_steps(env.get_wrapper_attr(own)) if env.has_wrapper_attr(own) else None
    return _as_steps(env.spec.max_episode_steps) if steps is None and env.spec else steps


def _as_steps(limit: Any) -> int | None:
    """A number of steps; None where a value says that there is no limit, in whatever way."""
    try:
        steps = int(limit)
    except (TypeError, ValueError, OverflowError):  # None, "none", NaN, infinity
        return None
    return steps if 0 < steps <= _MOST_STEPS and not isinstance(limit, bool) else None


def _affine_bounds(space: gym.spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (np.abs(low) < _LARGEST_BOUND) & (np.abs(high) < _LARGEST_BOUND) & (low < high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return (high + low) / 2, (high - low) / 2
