"""The environment, in a module that a process with nothing else to do imports quickly."""

__all__ = ["ENV", "make_lander"]

from flowshield.envs import ContinuousEnvWrapper, make_env

ENV = "lunarlander"


def make_lander(*_: object) -> ContinuousEnvWrapper:
    """One continuous LunarLander-v3; RLlib hands its maker a context."""
    return make_env(ENV)
