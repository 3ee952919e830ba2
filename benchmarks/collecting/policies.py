"""Who acts in the benchmark: uniformly random, or a network."""

__all__ = ["batch_policy", "behaviour", "network"]

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from collecting.lander import make_lander
from flowshield.data import Behaviour, as_behaviour
from flowshield.evaluation import AgentBehaviour
from flowshield.models import UDRLAgent

_COMMAND = (200.0, 200.0)

BatchPolicy = Callable[[NDArray[np.float32]], NDArray[Any]]
"""States [n, state_dim] -> actions [n, action_dim]."""


def network() -> UDRLAgent:
    """The untrained policy of four hidden layers of 256: its speed is that of a trained one.

    It is blind to its command, which only ours shrinks as an episode goes on, so that everyone
    flies the same kind of flight: a step with an engine on costs more than one without.
    """
    torch.manual_seed(0)
    agent = UDRLAgent(8, 2, hidden_dim=256, n_layers=4).eval()
    with torch.no_grad():
        agent.network.first.weight[:, agent.state_dim :] = 0
    return agent


def batch_policy(name: str, seed: int = 0) -> BatchPolicy:
    """A policy as a user would write it in a loop of their own.

    Args:
        name: "random" or "network"; the network takes its mean action under one fixed command.
        seed: Of the random one.
    """
    if name == "network":
        return _network_policy()
    env, rng = make_lander(), np.random.default_rng(seed)
    low, span = env.action_low, env.action_high - env.action_low
    return lambda states: low + span * rng.random((len(states), len(low)))


def _network_policy() -> BatchPolicy:
    torch.set_num_threads(1)
    agent, command = network(), torch.tensor([_COMMAND])

    def act(states: NDArray[np.float32]) -> NDArray[Any]:
        with torch.no_grad():
            actions = agent.sample(
                torch.from_numpy(states), command.expand(len(states), 2), deterministic=True
            )
        return actions.numpy()

    return act


def behaviour(name: str) -> Behaviour:
    """The same as a behaviour of `DataCollector`, whose command also shrinks as it should."""
    return AgentBehaviour(network(), [_COMMAND]) if name == "network" else as_behaviour(None)
