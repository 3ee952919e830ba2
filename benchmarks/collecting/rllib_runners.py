"""RLlib's env runners, the part of it that steps environments."""

__all__ = ["EnvRunners"]

from typing import Any, Self

from collecting.contender import Stepping
from collecting.lander import ENV, make_lander


class EnvRunners(Stepping):
    """A group of env runners with RLlib's own network of four hidden layers of 256.

    What they sample stays in the object store, as ours does; this process hears its size.

    Args:
        policy: "random" or "network".
        n_runners: Env runners.
        n_envs: Environments of each.
    """

    def __init__(self, policy: str, n_runners: int, n_envs: int) -> None:
        self._random, self._n_runners, self._n_envs = policy == "random", n_runners, n_envs

    def __enter__(self) -> Self:
        """Starts the env runners."""
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
        from ray.rllib.env.env_runner_group import EnvRunnerGroup
        from ray.tune.registry import register_env

        register_env(ENV, make_lander)
        layers = DefaultModelConfig(fcnet_hiddens=[256] * 4, fcnet_activation="silu")
        config = (
            PPOConfig()
            .environment(env=ENV)
            .env_runners(
                num_env_runners=self._n_runners,
                num_envs_per_env_runner=self._n_envs,
                explore=False,
            )
            .rl_module(model_config=layers)
        )
        self._group = EnvRunnerGroup(env_creator=make_lander, config=config, local_env_runner=False)
        self._sample(1)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the env runners."""
        self._group.stop()

    def advance(self) -> int:
        """A sample of every env runner."""
        return self._sample(2048)

    def _sample(self, n_steps: int) -> int:
        random = self._random

        def sample(runner: Any) -> tuple[Any, int]:
            import ray

            episodes = runner.sample(num_timesteps=n_steps, random_actions=random)
            return ray.put(episodes), sum(len(episode) for episode in episodes)

        found = self._group.foreach_env_runner(sample, local_env_runner=False)
        return sum(n for _, n in found)
