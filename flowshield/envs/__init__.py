"""Environments with continuous states, found by name."""

from flowshield.envs.acrobot import AcrobotWrapper
from flowshield.envs.action_spaces import ContinuousEnvWrapper, DiscreteEnvWrapper, wrap_env
from flowshield.envs.cartpole import CartPoleWrapper
from flowshield.envs.geometric_chain import GeometricChainAnswer, GeometricChainWrapper
from flowshield.envs.gridworld import GridworldWrapper
from flowshield.envs.gridworld_answer import ExactFrontier, GridworldAnswer
from flowshield.envs.highway import HighwayWrapper
from flowshield.envs.hopper import HopperWrapper
from flowshield.envs.known_answer import KnownAnswer
from flowshield.envs.lunarlander import DiscreteLunarLanderWrapper, LunarLanderWrapper
from flowshield.envs.mountain_car import MountainCarWrapper
from flowshield.envs.outcomes import initial_state
from flowshield.envs.pendulum import PendulumWrapper
from flowshield.envs.registry import env_maker, get_env_info, list_envs, make_env, register_env
from flowshield.envs.wrapper import EnvWrapper

__all__ = [
    "AcrobotWrapper",
    "CartPoleWrapper",
    "ContinuousEnvWrapper",
    "DiscreteEnvWrapper",
    "DiscreteLunarLanderWrapper",
    "EnvWrapper",
    "ExactFrontier",
    "GeometricChainAnswer",
    "GeometricChainWrapper",
    "GridworldAnswer",
    "GridworldWrapper",
    "HighwayWrapper",
    "HopperWrapper",
    "KnownAnswer",
    "LunarLanderWrapper",
    "MountainCarWrapper",
    "PendulumWrapper",
    "env_maker",
    "get_env_info",
    "initial_state",
    "list_envs",
    "make_env",
    "register_env",
    "wrap_env",
]
