"""Environments with continuous states and actions, found by name."""

from flowshield.envs.geometric_chain import GeometricChainAnswer, GeometricChainWrapper
from flowshield.envs.gridworld import GridworldWrapper
from flowshield.envs.gridworld_answer import ExactFrontier, GridworldAnswer
from flowshield.envs.known_answer import KnownAnswer
from flowshield.envs.lunarlander import LunarLanderWrapper
from flowshield.envs.registry import env_maker, get_env_info, list_envs, make_env, register_env
from flowshield.envs.wrapper import ContinuousEnvWrapper

__all__ = [
    "ContinuousEnvWrapper",
    "ExactFrontier",
    "GeometricChainAnswer",
    "GeometricChainWrapper",
    "GridworldAnswer",
    "GridworldWrapper",
    "KnownAnswer",
    "LunarLanderWrapper",
    "env_maker",
    "get_env_info",
    "list_envs",
    "make_env",
    "register_env",
]
