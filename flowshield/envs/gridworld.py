"""A gridworld in which the agent slips, small enough for p(H, R | s) by backward induction."""

__all__ = ["Gridworld", "GridworldWrapper"]

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from flowshield.envs.action_spaces import ContinuousEnvWrapper
from flowshield.envs.gridworld_answer import GridworldAnswer
from flowshield.errors import ConfigError

LAYOUT = ("P.+G", ".++.", ".--.", "G-.P")
_TERRAIN = {".": 0, "+": 1, "-": -1}
_MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))  # (row, column): right, left, down, up
_TRUNCATED_SHARE = 1e-9  # of the episodes, at most


class Gridworld(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Walks on a map to a goal or into a pit; every cell pays for being entered or stayed in.

    The map is read as text: `.` pays 0, `+` pays 1, `-` pays -1, `#` is a wall, `G` (goal) and `P`
    (pit) end the episode with rewards of their own. Rewards are whole, so that with a return noise
    of 1 the dequantised return is smooth. An episode starts in any cell, each alike.

    The state is (x, y) of the cell, each from -1 (left, top) to 1. An action (dx, dy) in [-1, 1]^2
    moves one cell along its larger component: the uniformly random behaviour goes each way with
    probability exactly 1/4. With probability `slip` the agent stays where it is, as it does when
    it runs into a wall or the border. (Slipping sideways instead would change nothing for a random
    walk, and without staying every horizon would be odd or even by the colour of the cell.)

    Args:
        layout: Rows of the map, of one length.
        slip: Probability of staying, in [0, 1).
        goal_reward: Whole reward of entering a goal.
        pit_reward: Whole reward of entering a pit.

    Raises:
        ConfigError: The map or an argument cannot be used, or a cell leads to no end.
    """

    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(
        self,
        layout: Sequence[str] = LAYOUT,
        slip: float = 0.4,
        goal_reward: int = 3,
        pit_reward: int = -3,
    ) -> None:
        if not 0.0 <= slip < 1.0:
            raise ConfigError(f"the gridworld expects 0 <= slip < 1, got {slip}")
        if goal_reward != int(goal_reward) or pit_reward != int(pit_reward):
            raise ConfigError(
                f"the gridworld expects whole rewards, got goal_reward={goal_reward}, "
                f"pit_reward={pit_reward}"
            )
        self.layout, self.slip = _checked_layout(layout), float(slip)
        self.rewards = {**_TERRAIN, "G": int(goal_reward), "P": int(pit_reward)}
        places = np.argwhere(np.isin(self.layout, list(_TERRAIN)))
        self.cells: list[tuple[int, int]] = [(int(row), int(column)) for row, column in places]
        self._check_ends()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts in a random cell."""
        super().reset(seed=seed)
        self._cell = self.cells[int(self.np_random.integers(len(self.cells)))]
        return self.state_of(self._cell), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Moves or slips, and pays for the cell in which that ends."""
        if self.np_random.random() >= self.slip:
            self._cell = self.neighbour(self._cell, _move(action))
        reward, ends = self.reward_of(self._cell), self.is_end(self._cell)
        return self.state_of(self._cell), float(reward), ends, False, {}

    def state_of(self, cell: tuple[int, int]) -> NDArray[np.float32]:
        """State [2] of a cell (row, column)."""
        spans = np.maximum(np.array(self.layout.shape) - 1, 1)
        row, column = 2.0 * np.array(cell) / spans - 1.0
        return np.array([column, row], np.float32)

    def neighbour(self, cell: tuple[int, int], move: tuple[int, int]) -> tuple[int, int]:
        """The cell in which a move ends that does not slip."""
        row, column = cell[0] + move[0], cell[1] + move[1]
        inside = 0 <= row < self.layout.shape[0] and 0 <= column < self.layout.shape[1]
        return (row, column) if inside and self.layout[row, column] != "#" else cell

    def reward_of(self, cell: tuple[int, int]) -> int:
        """Reward of a step that ends in this cell."""
        return self.rewards[str(self.layout[cell])]

    def is_end(self, cell: tuple[int, int]) -> bool:
        """Whether the episode ends in this cell."""
        return str(self.layout[cell]) in "GP"

    def transitions(self) -> list[list[tuple[tuple[int, int], float]]]:
        """For each of `cells`, where the random behaviour's next step ends and how probably."""
        stay, way = self.slip, (1.0 - self.slip) / len(_MOVES)
        return [
            [(cell, stay)] * (stay > 0) + [(self.neighbour(cell, move), way) for move in _MOVES]
            for cell in self.cells
        ]

    def live_matrix(self) -> NDArray[np.float64]:
        """Probabilities [cells, cells] of going on from one cell in another."""
        index = {cell: place for place, cell in enumerate(self.cells)}
        matrix = np.zeros((len(index), len(index)))
        for row, ways in enumerate(self.transitions()):
            for cell, probability in ways:
                if not self.is_end(cell):
                    matrix[row, index[cell]] += probability
        return matrix

    def steps_needed(self) -> int:
        """Step limit that cuts fewer than one episode in 1e9 off, wherever it starts."""
        live, survival, steps = self.live_matrix(), np.ones(len(self.cells)), 0
        while survival.max() > _TRUNCATED_SHARE:
            survival, steps = live @ survival, steps + 1
        return steps

    def _check_ends(self) -> None:
        # who has not ended after as many steps as there are cells has no way to
        survival = np.linalg.matrix_power(self.live_matrix(), len(self.cells)) @ np.ones(
            len(self.cells)
        )
        if not self.cells or (survival > 1.0 - 1e-12).any():
            lost = [self.cells[i] for i in np.flatnonzero(survival > 1.0 - 1e-12)]
            raise ConfigError(
                f"the gridworld's cells (row, column) {lost} lead to no goal or pit: open a way, "
                "or make them walls (#)"
            )


class GridworldWrapper(ContinuousEnvWrapper):
    """The gridworld with its known answer; falling into a pit is its crash.

    Args:
        max_episode_steps: Step limit; None = the least at which truncation can be neglected.
        return_noise: Noise on returns that the known answer assumes, raw reward; its `with_noise`
            gives that of another.
        **kwargs: Arguments of `Gridworld`.

    Raises:
        ConfigError: An argument is out of range, or the step limit is so low that truncation would
            spoil the known answer.
    """

    knows_crash: ClassVar[bool] = True

    def __init__(
        self, max_episode_steps: int | None = None, return_noise: float = 1.0, **kwargs: Any
    ) -> None:
        self._grid = Gridworld(**kwargs)
        least = self._grid.steps_needed()
        limit = least if max_episode_steps is None else max_episode_steps
        if limit < least:
            raise ConfigError(
                f"gridworld with max_episode_steps={limit} cuts off too many episodes for its "
                f"known answer to hold: give at least {least}, or a map with shorter ways"
            )
        super().__init__(gym.wrappers.TimeLimit(self._grid, limit), name="gridworld")
        given = {"max_episode_steps": max_episode_steps, "return_noise": return_noise}
        self.make_kwargs = {**given, **kwargs}
        self._return_noise = return_noise

    @functools.cached_property
    def known_answer(self) -> GridworldAnswer:
        """The exact p(H, R | s) under the uniformly random behaviour, worked out when asked for."""
        grid, limit = self._grid, self.max_episode_steps
        assert limit is not None
        index = {cell: place for place, cell in enumerate(grid.cells)}
        steps = [
            [(index.get(cell), probability, grid.reward_of(cell)) for cell, probability in ways]
            for ways in grid.transitions()
        ]
        states = np.stack([grid.state_of(cell) for cell in grid.cells])
        return GridworldAnswer(states, steps, limit, self._return_noise)

    def crashed(self, terminated: bool, last_reward: float) -> bool:
        """Says whether the agent fell into a pit, which its last reward tells.

        Args:
            terminated: Whether the environment itself ended the episode.
            last_reward: Reward of the last step.
        """
        return bool(terminated) and last_reward == self._grid.rewards["P"]


def _move(action: NDArray[np.float32]) -> tuple[int, int]:
    dx, dy = float(action[0]), float(action[1])
    along_x = abs(dx) >= abs(dy)
    return _MOVES[(dx < 0.0) if along_x else 2 + (dy < 0.0)]


def _checked_layout(layout: Sequence[str]) -> NDArray[np.str_]:
    rows = [str(row) for row in layout]
    known = {*_TERRAIN, "#", "G", "P"}
    if not rows or len({len(row) for row in rows}) != 1 or not set("".join(rows)) <= known:
        raise ConfigError(
            f"the gridworld expects rows of one length made of {' '.join(sorted(known))}, "
            f"got {rows}"
        )
    return np.array([list(row) for row in rows])
