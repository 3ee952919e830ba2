"""An episode as `run_episode` plays it, with pictures and with what the shield saw."""

__all__ = ["FilmedEpisode", "film_episode"]

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowshield.envs import EnvWrapper
from flowshield.errors import UsageError
from flowshield.evaluation.agent import EvaluatedEpisode, run_batch
from flowshield.evaluation.answer import told_decimals
from flowshield.evaluation.cell_grid import Command
from flowshield.evaluation.scoring import shield_limits, shield_scores
from flowshield.evaluation.wording import decimals_for
from flowshield.models import BaseShield, CommandedPolicy, UDRLAgent

MOST_PICTURES = 300  # of an episode, kept: this bounds memory and the film's length
LARGEST_SIDE = 440  # pixels
_SMOOTH = 25  # pictures a second that are enough
_UNKNOWN_RATE = 30


@dataclass(frozen=True)
class FilmedEpisode:
    """One episode of T steps, seen by a camera and judged by a shield that may have acted or not.

    Attributes:
        evaluated: What happened, as `run_episode` tells it.
        shielded: Whether the shield acted, or only judges here.
        asked: The command at each step before the shield, [T, 2].
        followed: The command that the agent was given, [T, 2].
        scores: The shield's score of `asked`, [T], nats.
        limits: Its threshold at each state, [T].
        score_type: "density" or "achievability".
        pictures: Of the states after 0, stride, 2 stride, ... < T steps, and of the last one.
        stride: Steps from one picture to the next.
        seconds_per_step: Of the world that is shown.
        outcome: "crashed", "time out", or how else it ended.
        decimals: With which returns are written.
    """

    evaluated: EvaluatedEpisode
    shielded: bool
    asked: NDArray[np.float64]
    followed: NDArray[np.float64]
    scores: NDArray[np.float64]
    limits: NDArray[np.float64]
    score_type: str
    pictures: list[Image.Image]
    stride: int
    seconds_per_step: float
    outcome: str
    decimals: int = 1

    @property
    def length(self) -> int:
        """Number of steps T."""
        return self.evaluated.episode.length

    def picture_after(self, step: int) -> Image.Image:
        """The picture after so many steps, a multiple of `stride`; the last one from the end on."""
        return self.pictures[-1 if step >= self.length else step // self.stride]

    def return_after(self, step: int) -> float:
        """The return so far after so many steps."""
        return float(self.evaluated.episode.rewards[:step].sum())


def film_episode(
    env: EnvWrapper,
    agent: UDRLAgent,
    command: Command,
    shield: BaseShield,
    *,
    shielded: bool,
    seed: int = 0,
    deterministic: bool = True,
) -> FilmedEpisode:
    """Plays the episode of `run_episode` and takes pictures: nothing else is different.

    Args:
        env: From `make_env(..., render_mode="rgb_array")`.
        agent: The policy.
        command: (horizon in steps, return in raw reward).
        shield: Calibrated; it judges every step.
        shielded: Whether it acts too.
        seed: Of the environment's reset, as Gymnasium takes it, and of the agent's draws.
        deterministic: Whether the agent takes its mean, or likeliest, action.

    Raises:
        ConfigError: The agent's actions are of another kind or number than the environment's.
        NotCalibratedError: The shield has no threshold.
        UsageError: The environment gives no pictures.
    """
    rate = float(env.metadata.get("render_fps") or _UNKNOWN_RATE)
    film = _Film(env, stride=max(1, round(rate / _SMOOTH)))
    evaluated = run_batch(
        [env],
        agent,
        [command],
        shield if shielded else None,
        [seed],
        deterministic,
        partial(_FilmedPolicy, film),
    )[0]
    states, asked = evaluated.episode.states, np.array(film.asked)
    return FilmedEpisode(
        evaluated=evaluated,
        shielded=shielded,
        asked=asked,
        followed=np.array(film.followed),
        scores=shield_scores(shield, states, asked.astype(np.float32)),
        limits=shield_limits(shield, states),
        score_type=shield.score_type,
        pictures=[*film.pictures, film.picture()],
        stride=film.stride,
        seconds_per_step=1.0 / rate,
        outcome=_outcome(env, evaluated),
        decimals=_decimals(shield, command),
    )


class _FilmedPolicy(CommandedPolicy):
    """A commanded policy whose film looks before every step, and is told the commands."""

    def __init__(self, film: "_Film", *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.film = film

    def act(self, states: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """As `CommandedPolicy.act`."""
        self.film.look(len(self.film.asked))
        self.film.asked.append(self._now())
        actions = super().act(states, rows)
        self.film.followed.append(self._now())
        return actions

    def _now(self) -> NDArray[np.float64]:
        return self.commands[0].double().cpu().numpy()


class _Film:
    """Pictures of every `stride`-th state; the stride doubles when there are too many.

    Beside them the commands of every step, before the shield and after it.
    """

    def __init__(self, env: EnvWrapper, stride: int) -> None:
        self.env, self.stride = env, stride
        self.pictures: list[Image.Image] = []
        self.asked: list[NDArray[np.float64]] = []
        self.followed: list[NDArray[np.float64]] = []

    def look(self, step: int) -> None:
        """Keeps a picture of the state after so many steps, if it is one of those to keep."""
        if step % self.stride == 0:
            self.pictures.append(self.picture())
        if len(self.pictures) > MOST_PICTURES:
            self.pictures, self.stride = self.pictures[::2], 2 * self.stride

    def picture(self) -> Image.Image:
        """The environment as it is now."""
        picture = Image.fromarray(_pixels(self.env)).convert("RGB")
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
        return picture


def _pixels(env: EnvWrapper) -> NDArray[np.uint8]:
    try:
        pixels: Any = env.render()
    except Exception as error:  # whatever a foreign renderer raises
        raise UsageError(f"environment {env.name!r} cannot be filmed here: {error}") from error
    if not (isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.dtype == np.uint8):
        raise UsageError(
            f"environment {env.name!r} cannot be filmed: expected an array [height, width, 3] of "
            f"uint8 from its render() with render_mode='rgb_array', got {type(pixels).__name__}"
        )
    return pixels


def _decimals(shield: BaseShield, command: Command) -> int:
    found = told_decimals(shield)
    return max(1, decimals_for([command[1]])) if found is None else found


def _outcome(env: EnvWrapper, evaluated: EvaluatedEpisode) -> str:
    if evaluated.crashed:
        return "crashed"
    return env.safe_end if evaluated.episode.terminated else "time out"
