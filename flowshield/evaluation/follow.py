"""Does this policy follow? Rollouts of an agent, alone, on commands that a shield supports.

Question C of three that are not to be mixed: a command that is *supported by the data* (A) is one
that their behaviour fulfilled; nothing says that the policy trained on them fulfils it too (C).
"""

__all__ = ["Followed", "evaluate_followed"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowshield.envs import EnvWrapper, initial_state, make_env
from flowshield.errors import ConfigError
from flowshield.evaluation.agent import EvaluatedEpisode, run_batch, start_seeds
from flowshield.evaluation.supported import supported_commands
from flowshield.models import BaseShield, UDRLAgent


@dataclass(frozen=True)
class Followed:
    """Episodes of an agent without a shield, each under a supported command of its own.

    Attributes:
        shield: Type of the shield that supports the commands.
        quantiles: Of the supported returns at a start, one a command, rising, [n_commands].
        episodes: Start by start, and there from the lowest return asked to the highest.
        n_starts: Starts that were rolled out, each n_commands times.
        n_starts_left_out: Starts at which the shield supports too few of its own samples.
        n_uncomputed: Of these samples' scores, how many the shield could not compute.
    """

    shield: str
    quantiles: NDArray[np.float64]
    episodes: list[EvaluatedEpisode]
    n_starts: int
    n_starts_left_out: int
    n_uncomputed: int = 0

    @property
    def commanded(self) -> NDArray[np.float64]:
        """What was asked, [n_starts, n_commands, 2], steps and raw return."""
        return self._by_start([episode.command for episode in self.episodes])

    @property
    def achieved(self) -> NDArray[np.float64]:
        """What came of it, to the episode's end, [n_starts, n_commands, 2]."""
        episodes = [evaluated.episode for evaluated in self.episodes]
        return self._by_start([(float(e.length), e.total_return) for e in episodes])

    def _by_start(self, pairs: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
        return np.array(pairs, dtype=np.float64).reshape(self.n_starts, len(self.quantiles), 2)


def evaluate_followed(
    agent: UDRLAgent,
    env: str | Sequence[EnvWrapper],
    shield: BaseShield,
    *,
    n_starts: int = 20,
    n_commands: int = 5,
    seed: int = 0,
    deterministic: bool = True,
    return_grid: float | None = None,
) -> Followed:
    """Gives the agent, alone, commands that the shield supports at each episode's own start.

    The starts are those of `evaluate_agent` with this seed, the same for every shield. The shield
    only says which commands are supported there; it does not touch the episodes.

    Args:
        agent: The policy.
        env: An environment's name, or at least n_starts * n_commands environments.
        shield: Calibrated.
        n_starts: Start states, at least 1.
        n_commands: Commands at each, over the range of supported returns, at least 1.
        seed: Root of the starts' seeds, and of the agent's draws.
        deterministic: Whether the agent takes its mean, or likeliest, action.
        return_grid: See `supported_commands`.

    Raises:
        ConfigError: A number is out of range, or there are too few environments.
        NotCalibratedError: The shield has no threshold.
    """
    if n_starts < 1:
        raise ConfigError(f"expected n_starts >= 1, got {n_starts}")
    n_episodes = n_starts * n_commands
    envs = [make_env(env) for _ in range(n_episodes)] if isinstance(env, str) else list(env)
    try:
        if len(envs) < n_episodes:
            raise ConfigError(f"expected {n_episodes} environments, got {len(envs)}")
        seeds = start_seeds(seed, n_starts)
        return _follow(agent, envs, shield, seeds, n_commands, deterministic, return_grid)
    finally:
        if isinstance(env, str):
            for made in envs:
                made.close()


def _follow(
    agent: UDRLAgent,
    envs: list[EnvWrapper],
    shield: BaseShield,
    seeds: list[int],
    n_commands: int,
    deterministic: bool,
    return_grid: float | None,
) -> Followed:
    states = np.stack([initial_state(envs[0], seed) for seed in seeds])
    before = shield.n_uncomputed
    quantiles, commands = supported_commands(shield, states, n_commands, return_grid)
    n_uncomputed = shield.n_uncomputed - before
    kept = np.flatnonzero(np.isfinite(commands).all(axis=(1, 2)))
    asked = [(float(h), float(r)) for h, r in commands[kept].reshape(-1, 2)]
    repeated = [seeds[start] for start in kept for _ in range(n_commands)]
    episodes = (
        run_batch(envs[: len(asked)], agent, asked, None, repeated, deterministic) if asked else []
    )
    left_out = len(seeds) - len(kept)
    return Followed(shield.shield_type, quantiles, episodes, len(kept), left_out, n_uncomputed)
