"""An environment of one's own, through the whole pipeline: python examples/own_environment.py."""

import sys

import gymnasium as gym
import numpy as np

from flowshield.cli import main
from flowshield.envs import ContinuousEnvWrapper, register_env


class Cart(gym.Env):
    """A cart on a line is pushed to the origin: the reward is minus its distance."""

    observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cart = np.array([self.np_random.uniform(-2, 2), 0.0], np.float32)
        return self.cart.copy(), {}

    def step(self, action):
        self.cart[1] = np.clip(0.9 * self.cart[1] + 0.2 * action[0], -1, 1)
        self.cart[0] = np.clip(self.cart[0] + self.cart[1], -10, 10)
        return self.cart.copy(), -float(abs(self.cart[0])), False, False, {}


register_env("cart", lambda: ContinuousEnvWrapper(gym.wrappers.TimeLimit(Cart(), 40)))

if __name__ == "__main__":
    given = ["env.name=cart", "env.commands=[[40,-10],[5,0],[200,50]]"]
    sys.exit(main(["run", *given, "behaviour=random", "profile=quick", *sys.argv[1:]]))
