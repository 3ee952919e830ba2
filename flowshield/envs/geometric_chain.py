"""A chain whose horizons are geometric and whose rewards are Gaussian: p(H, R | s) in two lines."""

__all__ = ["GeometricChain", "GeometricChainAnswer", "GeometricChainWrapper"]

import math
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from flowshield.envs.action_spaces import ContinuousEnvWrapper
from flowshield.envs.known_answer import KnownAnswer
from flowshield.errors import ConfigError

_TRUNCATED_SHARE = 1e-9  # of the episodes, at most
_TAIL = 1e-7  # float32 actions are no finer; cuts the rewards off 5.2 deviations from their mean


class GeometricChain(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Ends each step with a probability, and pays a Gaussian reward, both fixed by a context.

    The state is the context (c1, c2), uniform in [-1, 1]^2 at reset and constant in an episode.
    The mean horizon rises with c1 from the first to the second of `mean_horizons`, evenly in its
    logarithm; each step ends the episode with q(s) = 1 / mean. The reward is

        c2 * drift + reward_std * (sqrt(control) * z(a) + sqrt(1 - control) * z),  z ~ N(0, 1)

    where z(a) = Phi^-1((a + 1) / 2) turns a uniformly random action a in [-1, 1] into a standard
    Gaussian. So an agent decides a share `control` of the variance, and can obey commands, while
    the random behaviour's rewards are exactly N(c2 * drift, reward_std^2).

    Args:
        mean_horizons: Mean number of steps at c1 = -1 and at c1 = 1, both above 1.
        drift: Mean reward at c2 = 1; at c2 = -1 it is the negative of it.
        reward_std: Standard deviation of a reward.
        control: Share of the reward's variance that the action decides, in [0, 1].

    Raises:
        ConfigError: An argument is out of range.
    """

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(
        self,
        mean_horizons: tuple[float, float] = (6.0, 18.0),
        drift: float = 0.2,
        reward_std: float = 0.7,
        control: float = 0.5,
    ) -> None:
        short, long = mean_horizons
        if not (1.0 < short <= long < math.inf and reward_std > 0.0 and 0.0 <= control <= 1.0):
            raise ConfigError(
                "the geometric chain expects 1 < mean_horizons[0] <= mean_horizons[1], "
                f"reward_std > 0 and 0 <= control <= 1, got mean_horizons={mean_horizons}, "
                f"reward_std={reward_std}, control={control}"
            )
        self.mean_horizons = (float(short), float(long))
        self.drift, self.reward_std, self.control = float(drift), float(reward_std), float(control)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draws a context [2]."""
        super().reset(seed=seed)
        self._context = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self._context.copy(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Pays a reward and may end the episode; the context stays."""
        context = self._context[None].astype(np.float64)
        level = np.clip((float(action[0]) + 1.0) / 2.0, _TAIL, 1.0 - _TAIL)
        chosen, drawn = float(ndtri(level)), self.np_random.standard_normal()
        deviation = math.sqrt(self.control) * chosen + math.sqrt(1.0 - self.control) * drawn
        reward = float(self.reward_mean(context)[0]) + self.reward_std * deviation
        terminated = bool(self.np_random.random() < self.end_probability(context)[0])
        return self._context.copy(), reward, terminated, False, {}

    def end_probability(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """q(s), the probability that the next step is the last, [n], of states [n, 2]."""
        short, long = np.log(self.mean_horizons)
        probability: NDArray[np.float64] = np.exp(
            -(short + (long - short) * (states[:, 0] + 1.0) / 2.0)
        )
        return probability

    def reward_mean(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """mu(s), the random behaviour's mean reward, [n], of states [n, 2]."""
        mean: NDArray[np.float64] = self.drift * states[:, 1]
        return mean

    def steps_needed(self) -> int:
        """Step limit that cuts fewer than one episode in 1e9 off."""
        slowest = float(self.end_probability(np.ones((1, 2)))[0])
        return math.ceil(math.log(_TRUNCATED_SHARE) / math.log1p(-slowest))


class GeometricChainWrapper(ContinuousEnvWrapper):
    """The geometric chain with its known answer.

    Args:
        max_episode_steps: Step limit; None = the least at which truncation can be neglected.
        return_noise: Noise on returns that the known answer assumes, raw reward; its `with_noise`
            gives that of another.
        **kwargs: Arguments of `GeometricChain`.

    Raises:
        ConfigError: An argument is out of range, or the step limit is so low that truncation would
            spoil the known answer.
    """

    def __init__(
        self, max_episode_steps: int | None = None, return_noise: float = 1.0, **kwargs: Any
    ) -> None:
        self._chain = GeometricChain(**kwargs)
        least = self._chain.steps_needed()
        limit = least if max_episode_steps is None else max_episode_steps
        if limit < least:
            raise ConfigError(
                f"geometric_chain with max_episode_steps={limit} cuts off too many episodes for "
                f"its known answer to hold: give at least {least}, or shorter mean_horizons"
            )
        super().__init__(gym.wrappers.TimeLimit(self._chain, limit), name="geometric_chain")
        given = {"max_episode_steps": max_episode_steps, "return_noise": return_noise}
        self.make_kwargs = {**given, **kwargs}
        self._answer = GeometricChainAnswer(self._chain, limit, return_noise)

    @property
    def known_answer(self) -> "GeometricChainAnswer":
        """The exact p(H, R | s) under the uniformly random behaviour."""
        return self._answer


class GeometricChainAnswer(KnownAnswer):
    """H is geometric with q(s), and R given H = h is N(mu(s) h, reward_std^2 h).

    Nothing that a state shows changes within an episode, and a geometric horizon has no memory:
    what remains is distributed alike at every step, whatever came before.

    Args:
        chain: The environment.
        max_horizon: Its step limit.
        return_noise: Standard deviation of the noise on returns, raw reward.
    """

    def __init__(self, chain: GeometricChain, max_horizon: int, return_noise: float = 1.0) -> None:
        super().__init__(2, max_horizon, return_noise)
        self._chain = chain

    def log_prob(self, states: ArrayLike, commands: ArrayLike) -> NDArray[np.float64]:
        """As `KnownAnswer.log_prob`: log of geometric times Gaussian."""
        values, pairs = self._as_pairs(states, commands)
        horizon = self._whole_horizons(pairs[:, 0])
        end, h = self._chain.end_probability(values), np.maximum(horizon, 1)
        variance = self._variance(h, noisy=True)
        deviation = pairs[:, 1] - self._chain.reward_mean(values) * h
        log_horizon = np.log(end) + (h - 1) * np.log1p(-end)
        log_return = -0.5 * (deviation**2 / variance + np.log(2.0 * np.pi * variance))
        return np.where(horizon > 0, log_horizon + log_return, -np.inf)

    def sample(self, states: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """As `KnownAnswer.sample`."""
        values = self._as_states(states)
        h = rng.geometric(self._chain.end_probability(values))
        noise = np.sqrt(self._variance(h, noisy=False)) * rng.standard_normal(len(values))
        return np.stack([h, self._chain.reward_mean(values) * h + noise], axis=1)

    def achievability(
        self, states: ArrayLike, commands: ArrayLike, *, noisy: bool = False
    ) -> NDArray[np.float64]:
        """As `KnownAnswer.achievability`: the sum over h <= H of p(h) P(R' >= R | h)."""
        values, pairs = self._as_pairs(states, commands)
        allowed = self._steps_allowed(pairs[:, 0])
        end, mean = self._chain.end_probability(values), self._chain.reward_mean(values)
        total, survival = np.zeros(len(values)), np.ones(len(values))
        for h in range(1, int(allowed.max(initial=0)) + 1):
            spread = math.sqrt(self._variance(h, noisy=noisy))
            term = end * survival * ndtr((mean * h - pairs[:, 1]) / spread)
            total += np.where(h <= allowed, term, 0.0)
            survival *= 1.0 - end
        return total

    def _variance(self, horizon: Any, *, noisy: bool) -> Any:
        return self._chain.reward_std**2 * horizon + noisy * self.return_noise**2
