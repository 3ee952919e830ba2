"""Environments with continuous states and actions, found by name."""

from flowshield.envs.lunarlander import LunarLanderWrapper
from flowshield.envs.registry import get_env_info, list_envs, make_env, register_env
from flowshield.envs.wrapper import ContinuousEnvWrapper

__all__ = [
    "ContinuousEnvWrapper",
    "LunarLanderWrapper",
    "get_env_info",
    "list_envs",
    "make_env",
    "register_env",
]
