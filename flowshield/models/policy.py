"""Acting under a command, and the guards that may replace it: none, support, outcome."""

__all__ = [
    "RULES",
    "CommandedPolicy",
    "Decision",
    "Guard",
    "OutcomeGuard",
    "ShieldedPolicy",
    "SupportGuard",
]

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowshield.errors import ConfigError, DataError, ShapeError
from flowshield.models.action_heads import Generators
from flowshield.models.intent import Intent
from flowshield.models.outcome import Law, Outcome, OutcomeModel, weights_checksum
from flowshield.models.shields.base import BaseShield
from flowshield.models.shields.projection import Projection

RULES = (4.0, 2.0, 1.0, 0.5, 0.0)
"""The family of rules of `OutcomeGuard`, from the most cautious to any predicted gain."""

_FLOOR = 0.01  # of the data's return range: a gain below it is none
_MOST_FAILURE = 0.01  # by which a replacement may be predicted to fail more often


class Actor(Protocol):
    """What a commanded policy needs of an agent."""

    action_low: Tensor

    def sample(
        self,
        state: Tensor,
        command: Tensor,
        deterministic: bool = False,
        generator: Generators = None,
    ) -> Tensor:
        """Actions [batch, action_dim] at states [batch, state_dim] under commands [batch, 2]."""


class Projector(Protocol):
    """What the support guard needs of a shield."""

    def project_in_detail(self, state: Tensor, command: Tensor) -> Projection:
        """The nearest supported commands [batch, 2], and which of them were replaced."""


class Decision(NamedTuple):
    """What a guard makes of the commands of some episodes.

    Attributes:
        command: What is carried out [batch, 2], steps and raw return.
        replaced: Bool [batch], whether it is another command than would be without this decision.
    """

    command: Tensor
    replaced: Tensor


@runtime_checkable
class Guard(Protocol):
    """Decides which command is carried out."""

    @property
    def name(self) -> str:
        """What results call it."""

    @property
    def every(self) -> int:
        """Steps from one decision to the next; the first is at the start."""

    def settings(self) -> dict[str, Any] | None:
        """What decisions depend on beside the models, fit for JSON; None = as older releases."""

    def decide(self, state: Tensor, request: Tensor, command: Tensor) -> Decision:
        """Decides in some episodes at once, each by itself.

        Args:
            state: [batch, state_dim], raw.
            request: What is left of the requests [batch, 2].
            command: What is left of the commands that are carried out now [batch, 2].
        """


class SupportGuard:
    """Replaces a command that the data do not support by the nearest that they do.

    It needs no rollouts, and does not know what the policy makes of either command: where the best
    commands are the rarest, a replacement costs return (see docs/results/environments.md).

    Args:
        shield: A calibrated shield.
        name: What results call it; None = the shield's type.
        lasting: Whether a replacement is carried on to the end of the episode; else every step
            starts from what is left of the request.
    """

    every = 1

    def __init__(self, shield: Projector, name: str | None = None, *, lasting: bool = True) -> None:
        self.shield, self.lasting = shield, lasting
        self.name = name or str(getattr(shield, "shield_type", type(shield).__name__))

    def settings(self) -> dict[str, Any] | None:
        """See `Guard`."""
        return None if self.lasting else {"kind": "support", "lasting": False}

    def decide(self, state: Tensor, request: Tensor, command: Tensor) -> Decision:
        """Projects every command; see `Guard`.

        Raises:
            DataError: The shield can compute nothing at a state: there is no command left.
        """
        there = self.shield.project_in_detail(state, command if self.lasting else request)
        computed = there.command.isfinite().all(dim=1)
        if not bool(computed.all()):
            first = int(computed.int().argmin())
            raise DataError(
                f"the shield can compute no command at all at the state {state[first].tolist()} "
                f"({int((~computed).sum())} of {len(computed)} rows): its weights are no numbers, "
                "or the state is far from its data; train it again, or act without it"
            )
        return Decision(there.command, there.changed)


@dataclass(eq=False)
class OutcomeGuard:
    """Replaces a command only where the policy is predicted to do clearly better under another.

    Candidates are the request, what is carried out now, the shield's samples at the state, and if
    wanted the request's projection (the nearest command that the shield supports). Each one's
    utility, by the intent and against what is left of the REQUEST, is predicted by every member of
    the outcome model. With the gain over the request of each member, a candidate's score is

        mean gain - rule * max(deviation of the gain over the members, 1% of the return range),

    and the best one is carried out if its score is above 0 and its predicted probability of
    failure is at most 1 percentage point above the request's. Otherwise the request itself is.
    A replacement is not for good: the next decision starts from the request again.

    Attributes:
        shield: Gives the candidates.
        outcome: What the policy makes of a command; fitted to the policy that acts.
        intent: What the user wants of a command.
        return_range: See `flowshield.models.intent.return_range`, raw reward.
        rule: How many deviations a gain must exceed; infinite = never replace.
        every: Steps from one decision to the next.
        n_candidates: Samples of the shield at each decision.
        name: What results call it.
        projection: Whether the request's projection is a candidate too. It takes longer than the
            rest of a decision, and hardly ever beats the best sample.
        n_uncomputed: Candidates of which a prediction is NaN or infinite; none of them is chosen,
            and where the request is one, it is left alone.
    """

    shield: BaseShield
    outcome: OutcomeModel
    intent: Intent
    return_range: float
    rule: float = 1.0
    every: int = 20
    n_candidates: int = 48
    name: str = "outcome"
    projection: bool = False
    n_uncomputed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ConfigError: One is out of range.
        """
        if not (self.rule >= 0.0 and self.every >= 1 and self.n_candidates >= 1):
            raise ConfigError(
                "expected rule >= 0, every >= 1 and n_candidates >= 1, got "
                f"{self.rule}, {self.every} and {self.n_candidates}"
            )

    def with_rule(self, rule: float) -> "OutcomeGuard":
        """The same guard by another rule."""
        return replace(self, rule=rule)

    def settings(self) -> dict[str, Any]:
        """See `Guard`."""
        return {
            "kind": "outcome",
            "rule": self.rule if math.isfinite(self.rule) else None,
            "intent": self.intent.kind,
            "every": self.every,
            "n_candidates": self.n_candidates,
            "projection": self.projection,
            "policy": self.outcome.policy_checksum,
            "outcome": weights_checksum(self.outcome),
        }

    def check_policy(self, policy: object) -> None:
        """Refuses a policy to which the outcome model was not fitted.

        Raises:
            ConfigError: Its weights are others than those that the outcome model knows.
        """
        known, given = self.outcome.policy_checksum, weights_checksum(policy)
        if known is not None and given is not None and known != given:
            raise ConfigError(
                f"expected the policy that the outcome model was fitted to (weights {known[:12]}), "
                f"got another ({given[:12]}): probe this policy, or load the one that was probed"
            )

    @torch.no_grad()
    def decide(self, state: Tensor, request: Tensor, command: Tensor) -> Decision:
        """Chooses among the candidates; see the class and `Guard`."""
        if math.isinf(self.rule):
            return Decision(request, torch.zeros(len(request), dtype=torch.bool))
        candidates = self.candidates(state, request, command)
        gains = self._gains(self.outcome.law(state, candidates), request)
        return _chosen(candidates, gains.scores(self.rule))

    @torch.no_grad()
    def replaced_by(self, state: Tensor, request: Tensor, rules: Sequence[float]) -> Tensor:
        """Whether each rule replaces a request that is still carried out, bool [rules, batch].

        Args:
            state: [batch, state_dim], raw.
            request: What is left of the requests [batch, 2].
            rules: See the class.
        """
        candidates = self.candidates(state, request, request)
        gains = self._gains(self.outcome.law(state, candidates), request)
        return torch.stack([_chosen(candidates, gains.scores(rule)).replaced for rule in rules])

    def candidates(self, state: Tensor, request: Tensor, command: Tensor) -> Tensor:
        """What is compared at each state [batch, m, 2], the request first; see the class.

        Where the shield can compute no projection, the request stands in its place.
        """
        listed = [request.unsqueeze(1), command.unsqueeze(1)]
        listed.append(self.shield.common_commands(state, self.n_candidates).to(request))
        if self.projection:
            nearest = self.shield.project_in_detail(state, request).command.to(request)
            known = nearest.isfinite().all(dim=1, keepdim=True)
            listed.append(torch.where(known, nearest, request).unsqueeze(1))
        candidates = torch.cat(listed, dim=1)
        return torch.cat([candidates[..., :1].clamp(min=1.0), candidates[..., 1:]], dim=2)

    def _gains(self, law: Law, request: Tensor) -> "_Gains":
        """What is predicted of candidates, given the law of each and what is left of requests."""
        asked = request.unsqueeze(1).unsqueeze(0)  # of every member and candidate
        utility = self.intent.expected_utility(law.returns, law.steps, asked)
        gain = utility - utility[..., :1]
        spread = gain.std(dim=0, correction=min(1, len(gain) - 1))  # of one member 0
        failure = law.failure.mean(dim=0)
        more = failure - failure[:, :1] if self.outcome.knows_failure else torch.zeros_like(failure)
        self.n_uncomputed += int((~(utility.mean(dim=0) + more).isfinite()).sum())
        return _Gains(
            gain.mean(dim=0),
            spread.clamp(min=_FLOOR * self.return_range),
            ~(more <= _MOST_FAILURE),  # NaN is not below anything
        )


def _chosen(candidates: Tensor, scores: Tensor) -> Decision:
    """The best candidates by their scores; the first of each row is the request."""
    best = scores.argmax(dim=1)
    chosen = candidates[torch.arange(len(best), device=best.device), best]
    return Decision(chosen, (chosen != candidates[:, 0]).any(dim=1))


class _Gains(NamedTuple):
    """Predictions of candidates, the first of which is the request, each [batch, m].

    Attributes:
        mean: Gain in utility over the request, mean over the members.
        unclear: Its deviation over the members, at least the floor.
        riskier: Bool, whether the candidate is predicted to fail more often.
    """

    mean: Tensor
    unclear: Tensor
    riskier: Tensor

    def scores(self, rule: float) -> Tensor:
        """How clearly each is better, [batch, m]; 0 for the request, -inf where it may not be."""
        score = self.mean - rule * self.unclear
        score = torch.where(self.riskier | ~score.isfinite(), -torch.inf, score)
        score[:, 0] = 0.0
        return score


class CommandedPolicy:
    """Acts on commands that shrink as the episode goes on.

    After every step the horizon falls by one, never below one, and the return by the reward: both
    of the request and of the command that is carried out. They differ where a guard, asked at the
    start and every `guard.every` steps, put another command in the request's place.

    It is a batch policy of `flowshield.data.rollout`: one row per episode.

    Args:
        agent: The policy: a `UDRLAgent` or anything with its `sample` and `action_low`.
        command: The request, (horizon, return), the same for every episode; or one per episode,
            [n, 2].
        guard: What may replace commands; a calibrated shield stands for its `SupportGuard`; None =
            nothing does.
        deterministic: Whether the agent takes its mean, or likeliest, action.
        seeds: One per episode: what the agent draws in an episode depends on nothing else. None =
            it draws from torch's own generator.

    Attributes:
        requests: What is left of the requests [n, 2].
        commands: What is left of the commands that are carried out [n, 2].
        steps: Steps of each episode so far [n].
        flagged: Decisions that put another command in a request's place [n].
        flagged_at_start: Whether the first one did [n].
        first_commands: What was carried out at the start [n, 2].

    Raises:
        ConfigError: The guard's outcome model was fitted to another policy.
        DataError: A command is none: its horizon is below 1, or it is not finite.
        ShapeError: The commands are neither [2] nor [n, 2].
    """

    def __init__(
        self,
        agent: Actor,
        command: ArrayLike,
        guard: Guard | Projector | None = None,
        *,
        deterministic: bool = True,
        seeds: Sequence[int] | None = None,
    ) -> None:
        request = np.asarray(command, dtype=np.float64)
        if request.ndim not in (1, 2) or request.shape[-1] != 2:
            raise ShapeError(
                f"expected a command of shape [2], or one per episode [n, 2], got "
                f"{list(request.shape)}"
            )
        bad = ~(np.isfinite(request).all(axis=-1) & (request[..., 0] >= 1))
        if bad.any():
            raise DataError(
                "expected a command (horizon of at least 1 step, finite return), got "
                f"{tuple(request[bad].reshape(-1, 2)[0].tolist())}"
            )
        if isinstance(guard, OutcomeGuard):
            guard.check_policy(agent)
        self.agent, self.deterministic = agent, deterministic
        self.guard: Guard | None = (
            guard if guard is None or isinstance(guard, Guard) else SupportGuard(guard)
        )
        self.request, self.seeds = request, seeds
        self.device = agent.action_low.device
        self.requests = self.commands = torch.empty(0, 2)
        self.steps = self.flagged = np.zeros(0, dtype=np.int64)
        self.flagged_at_start = np.zeros(0, dtype=bool)
        self.first_commands = np.zeros((0, 2))
        self._generators: list[np.random.Generator] = []

    def begin(self, states: np.ndarray) -> None:
        """Starts one episode a row of the initial states [n, state_dim].

        Raises:
            ShapeError: There are commands or seeds for another number of episodes.
        """
        n = len(states)
        if self.request.ndim == 2 and len(self.request) != n:
            raise ShapeError(
                f"expected a command for each of {n} episodes, got {len(self.request)}"
            )
        if self.seeds is not None and len(self.seeds) != n:
            raise ShapeError(f"expected a seed for each of {n} episodes, got {len(self.seeds)}")
        requests = np.broadcast_to(self.request, (n, 2))
        self.requests = torch.tensor(requests, dtype=torch.float32, device=self.device)
        self.commands = self.requests.clone()
        self.steps = np.zeros(n, dtype=np.int64)
        self.flagged = np.zeros(n, dtype=np.int64)
        self.flagged_at_start = np.zeros(n, dtype=bool)
        self.first_commands = requests.copy()
        self._generators = [np.random.default_rng([seed, 1]) for seed in self.seeds or ()]

    @torch.no_grad()
    def act(self, states: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Actions [k, action_dim] of the episodes `rows` [k] at states [k, state_dim].

        Raises:
            DataError: The guard can compute nothing at a state: there is no action left.
        """
        state = torch.as_tensor(states, dtype=torch.float32, device=self.device)
        if self.guard is not None:
            self._decide(self.guard, state, rows)
        self.steps[rows] += 1
        command = self.commands[torch.as_tensor(rows, device=self.device)]
        own = {} if self.seeds is None else {"generator": [self._generators[i] for i in rows]}
        action = self.agent.sample(state, command, deterministic=self.deterministic, **own)
        return action.cpu().numpy()

    def observe(self, rewards: np.ndarray, rows: np.ndarray) -> None:
        """Takes the rewards [k] of the last step of the episodes `rows` [k] off their commands."""
        change = np.ones((len(rows), 2), dtype=np.float32)
        change[:, 1] = rewards
        index = torch.as_tensor(rows, device=self.device)
        passed = torch.as_tensor(change, device=self.device)
        for left in (self.requests, self.commands):
            left.index_add_(0, index, passed, alpha=-1)
            left[:, 0].clamp_(min=1.0)

    def _decide(self, guard: Guard, state: Tensor, rows: NDArray[np.intp]) -> None:
        due = self.steps[rows] % guard.every == 0
        if not due.any():
            return
        asked = rows[due]
        index = torch.as_tensor(asked, device=self.device)
        decision = guard.decide(
            state[torch.as_tensor(due)], self.requests[index], self.commands[index]
        )
        self.commands[index] = decision.command
        replaced = decision.replaced.cpu().numpy()
        first = self.steps[asked] == 0
        self.flagged[asked] += replaced
        self.flagged_at_start[asked[first]] = replaced[first]
        self.first_commands[asked[first]] = decision.command.cpu().numpy()[first]


class ShieldedPolicy:
    """A policy to deploy: one episode at a time, states in and actions out.

        policy = ShieldedPolicy(agent, guard)
        policy.begin(state, (500, 500))
        action = policy.act(state)
        policy.observe(reward)

    Args:
        agent: The policy.
        guard: What may replace its commands; None = nothing does.
        deterministic: Whether the agent takes its mean, or likeliest, action.
    """

    def __init__(
        self, agent: Actor, guard: Guard | Projector | None = None, *, deterministic: bool = True
    ) -> None:
        self.agent, self.guard, self.deterministic = agent, guard, deterministic
        self._episode: CommandedPolicy | None = None

    def begin(self, state: ArrayLike, command: ArrayLike, seed: int | None = None) -> None:
        """Starts an episode at a state [state_dim] under a command (horizon, return).

        Args:
            state: Raw.
            command: The request.
            seed: Of what the agent draws; None = torch's own generator.
        """
        row = np.asarray(state, dtype=np.float32)[None]
        self._episode = CommandedPolicy(
            self.agent,
            command,
            self.guard,
            deterministic=self.deterministic,
            seeds=None if seed is None else [seed],
        )
        self._episode.begin(row)

    def act(self, state: ArrayLike) -> np.ndarray:
        """The action [action_dim] at a state [state_dim]."""
        row = np.asarray(state, dtype=np.float32)[None]
        action: np.ndarray = self._begun().act(row, np.arange(1))[0]
        return action

    def observe(self, reward: float) -> None:
        """Takes the reward of the last step off the commands."""
        self._begun().observe(np.array([reward]), np.arange(1))

    @property
    def request(self) -> tuple[float, float]:
        """What is left of the request."""
        return self._pair(self._begun().requests)

    @property
    def command(self) -> tuple[float, float]:
        """What is left of the command that is carried out."""
        return self._pair(self._begun().commands)

    def predicted(self, state: ArrayLike, command: ArrayLike) -> Outcome:
        """What the policy is predicted to make of a command [2] at a state, a batch of one.

        Raises:
            ConfigError: The guard predicts nothing.
        """
        if not isinstance(self.guard, OutcomeGuard):
            raise ConfigError("expected an OutcomeGuard, which predicts outcomes; got another")
        device = self.agent.action_low.device
        rows = [np.asarray(x, np.float32)[None] for x in (state, command)]
        return self.guard.outcome.predict(*(torch.as_tensor(row, device=device) for row in rows))

    def _begun(self) -> CommandedPolicy:
        if self._episode is None:
            raise DataError("expected begin(state, command) before the episode's first step")
        return self._episode

    @staticmethod
    def _pair(commands: Tensor) -> tuple[float, float]:
        horizon, ret = commands[0].tolist()
        return horizon, ret
