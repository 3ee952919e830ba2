"""What an agent achieves when it is given commands, with or without a shield."""

__all__ = [
    "Cell",
    "EvaluatedEpisode",
    "crashed",
    "evaluate_agent",
    "run_batch",
    "run_episode",
    "start_seeds",
]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from flowshield.data import Episode, rollout
from flowshield.envs import EnvWrapper, make_env, wrap_env
from flowshield.errors import ConfigError
from flowshield.models import BaseShield, CommandedPolicy, Guard, UDRLAgent

Command = tuple[float, float]


@dataclass(frozen=True)
class EvaluatedEpisode:
    """One episode under a command.

    Attributes:
        episode: What happened.
        command: The request, (horizon in steps, return in raw reward).
        first_command: What the guard made of it at the start; the request itself without one.
        crashed: Whether it crashed, by the environment's physics; None where it cannot tell.
        flagged_steps: Steps at which the guard replaced the command.
        flagged_at_start: Whether it replaced the request itself.
        seed: Of the reset, and of what the agent drew; None where it is not known.
    """

    episode: Episode
    command: Command
    first_command: Command
    crashed: bool | None
    flagged_steps: int
    flagged_at_start: bool
    seed: int | None = None


@dataclass(frozen=True)
class Cell:
    """All episodes of one command and one shield.

    Attributes:
        command: The request.
        shield: The shield's type, or "none".
        episodes: In the order of their seeds: two cells with one seed pair episode by episode.
        n_uncomputed: Scores that the shield could not compute and took for unsupported, and
            predictions that an outcome guard could not compute and did not act on.
    """

    command: Command
    shield: str
    episodes: list[EvaluatedEpisode]
    n_uncomputed: int = 0

    @property
    def returns(self) -> list[float]:
        """Achieved returns, raw reward."""
        return [e.episode.total_return for e in self.episodes]

    @property
    def crashed(self) -> list[bool] | None:
        """Whether each episode crashed; None where the environment cannot tell."""
        flags = [e.crashed for e in self.episodes if e.crashed is not None]
        return flags if len(flags) == len(self.episodes) else None


def run_episode(
    env: gym.Env[Any, Any] | str,
    agent: UDRLAgent,
    command: Command,
    shield: BaseShield | Guard | None = None,
    seed: int = 0,
    *,
    deterministic: bool = True,
) -> EvaluatedEpisode:
    """Lets the agent follow a command for one episode.

    Args:
        env: An environment from `make_env`, its name, or any Gymnasium one with Box observations.
        agent: The policy.
        command: (horizon in steps, return in raw reward).
        shield: What may replace commands: a guard, or a calibrated shield, which stands for its
            `SupportGuard`; None = nothing does.
        seed: Of the environment's reset, as Gymnasium takes it, and of the agent's draws.
        deterministic: Whether the agent takes its mean, or likeliest, action.

    Returns:
        The episode and what the shield did in it.

    Raises:
        ConfigError: The agent's actions are of another kind or number than the environment's.
        NotCalibratedError: The shield has no threshold.
    """
    if isinstance(env, str):
        made = make_env(env)
        try:
            return run_batch([made], agent, [command], shield, [seed], deterministic)[0]
        finally:
            made.close()
    wrapped = env if isinstance(env, EnvWrapper) else wrap_env(env)
    return run_batch([wrapped], agent, [command], shield, [seed], deterministic)[0]


def evaluate_agent(
    agent: UDRLAgent,
    env: str | Sequence[EnvWrapper],
    command: Command,
    shield: BaseShield | Guard | None = None,
    *,
    n_episodes: int = 100,
    seed: int = 0,
    deterministic: bool = True,
) -> Cell:
    """Lets the agent follow one command in many episodes at once: one cell of a grid.

    Episode i's environment is seeded from (seed, i) alone, so every cell sees the same starts.

    Args:
        agent: The policy.
        env: An environment's name, or at least n_episodes environments from `make_env`.
        command: (horizon in steps, return in raw reward).
        shield: What may replace commands: a guard, or a calibrated shield, which stands for its
            `SupportGuard`; None = nothing does.
        n_episodes: Episodes, at least 1.
        seed: Root of the episodes' seeds, and of the agent's draws.
        deterministic: Whether the agent takes its mean, or likeliest, action.

    Returns:
        The cell.

    Raises:
        ConfigError: n_episodes is not positive, or more than the environments given; or the
            agent's actions are of another kind or number than the environment's.
        NotCalibratedError: The shield has no threshold.
    """
    if n_episodes < 1:
        raise ConfigError(f"expected n_episodes >= 1, got {n_episodes}")
    if isinstance(env, gym.Env):
        raise ConfigError(
            f"expected an environment's name or a list of {n_episodes} environments, one an "
            "episode, got a single environment: pass its name"
        )
    envs = [make_env(env) for _ in range(n_episodes)] if isinstance(env, str) else list(env)
    if len(envs) < n_episodes:
        raise ConfigError(f"expected {n_episodes} environments, one an episode, got {len(envs)}")
    commands, seeds = [command] * n_episodes, start_seeds(seed, n_episodes)
    before = _uncomputed(shield)
    try:
        episodes = run_batch(envs[:n_episodes], agent, commands, shield, seeds, deterministic)
    finally:
        if isinstance(env, str):
            for made in envs:
                made.close()
    name = getattr(shield, "name", None) or getattr(shield, "shield_type", "none")
    return Cell(command, str(name), episodes, _uncomputed(shield) - before)


def start_seeds(seed: int, n: int) -> list[int]:
    """Seeds of the resets of episodes 0..n-1, each from (seed, its index) alone."""
    children = np.random.SeedSequence(seed).spawn(n)
    return [int(child.generate_state(1)[0]) for child in children]


def run_batch(
    envs: Sequence[EnvWrapper],
    agent: UDRLAgent,
    commands: Sequence[Command],
    guard: BaseShield | Guard | None,
    seeds: Sequence[int],
    deterministic: bool = True,
    make_policy: Callable[..., CommandedPolicy] = CommandedPolicy,
) -> list[EvaluatedEpisode]:
    """Lets the agent follow a command in each environment, all at once.

    Args:
        envs: One an episode.
        agent: The policy.
        commands: One an episode, (horizon in steps, return in raw reward).
        guard: What may replace commands: a guard, or a calibrated shield, which stands for its
            `SupportGuard`; None = nothing does.
        seeds: Of the resets, one per episode; what the agent draws in an episode follows from its
            own, so that two guards that let the same commands pass see the same episode.
        deterministic: Whether the agent takes its mean, or likeliest, action.
        make_policy: Makes the policy, for who wants to look on while it acts.

    Raises:
        ConfigError: The agent's actions are of another kind or number than the environments'.
    """
    _check_actions(agent, envs[0])
    policy = make_policy(
        agent,
        np.array(commands, dtype=np.float64),
        guard,
        deterministic=deterministic,
        seeds=None if deterministic else seeds,
    )
    episodes = rollout(envs, policy, seeds)
    return [
        EvaluatedEpisode(
            episode=episode,
            command=commands[i],
            first_command=(float(policy.first_commands[i, 0]), float(policy.first_commands[i, 1])),
            crashed=crashed(envs[i], episode),
            flagged_steps=int(policy.flagged[i]),
            flagged_at_start=bool(policy.flagged_at_start[i]),
            seed=seeds[i],
        )
        for i, episode in enumerate(episodes)
    ]


def _check_actions(agent: object, env: EnvWrapper) -> None:
    if not isinstance(agent, UDRLAgent):
        return  # an actor of the user's own answers for itself
    trained, there = (agent.n_actions, agent.action_dim), (env.n_actions, env.action_dim)
    if trained != there:
        raise ConfigError(
            f"this agent was trained for {_kind(*trained)}, and environment {env.name!r} has "
            f"{_kind(*there)}: use the environment of its data, or train again"
        )


def _kind(n_actions: int | None, action_dim: int) -> str:
    return f"{action_dim} continuous actions" if n_actions is None else f"{n_actions} discrete ones"


def _uncomputed(shield: BaseShield | Guard | None) -> int:
    """What the shield, or the guard and its shield, could not compute so far."""
    owners = (shield, getattr(shield, "shield", None))
    return sum(int(getattr(owner, "n_uncomputed", 0)) for owner in owners)


def crashed(env: EnvWrapper, episode: Episode) -> bool | None:
    """Whether an episode ended in failure; None where the environment cannot tell."""
    if not env.knows_crash:
        return None
    return env.crashed(episode.terminated, float(episode.rewards[-1]))
