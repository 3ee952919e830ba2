import math
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError
from flowshield.evaluation import evaluate_agent
from flowshield.evaluation.records import cell_record
from flowshield.models import (
    BaseShield,
    CommandedPolicy,
    Intent,
    OutcomeGuard,
    OutcomeModel,
    ShieldedPolicy,
    SupportGuard,
    UDRLAgent,
)
from flowshield.models.outcome import Law, weights_checksum
from flowshield.models.policy import RULES
from flowshield.models.shields import Calibration, StateGroups
from flowshield.models.shields.projection import Projection


class EchoAgent(UDRLAgent):
    """Keeps the commands that it was asked to obey."""

    def __init__(self):
        super().__init__(2, 1, hidden_dim=4, n_layers=1)
        self.asked = []

    def sample(self, state, command, deterministic=False):
        self.asked.append((command.clone(), deterministic))
        return super().sample(state, command, deterministic)


class CeilingShield(BaseShield):
    """Supports returns up to 100, and at states whose first entry is 1 only up to 10."""

    def compute_loss(self, state, command):
        raise NotImplementedError

    def log_prob(self, state, command, n_steps=None):
        ceiling = torch.where(state[:, 0] == 1, 10.0, 100.0)
        return torch.where(command[:, 1] <= ceiling, 0.0, -50.0)

    def sample_with_log_prob(self, state, n_samples, generator=None):
        ceiling = torch.where(state[:, 0] == 1, 10.0, 100.0)
        ret = ceiling.unsqueeze(1).expand(-1, n_samples)
        samples = torch.stack([torch.full_like(ret, 40.0), ret], dim=2)
        return samples, torch.zeros(len(state), n_samples)


def ceiling_shield():
    shield = CeilingShield(2)
    shield.calibration = Calibration.of_scores(
        [-torch.ones(9)], 0.1, unit="step", score="density", groups=StateGroups.single(2)
    )
    shield.projection = shield.projection._replace(n_steps=0)
    return shield


def begun(command, n=3, guard=None, **options):
    policy = CommandedPolicy(EchoAgent(), command, guard, **options)
    policy.begin(np.zeros((n, 2)))
    return policy


def step(policy, rows, rewards, states=None):
    rows = np.asarray(rows)
    actions = policy.act(np.zeros((len(rows), 2)) if states is None else states, rows)
    policy.observe(np.asarray(rewards, dtype=np.float64), rows)
    return actions


def test_every_episode_starts_from_the_request():
    policy = begun((200, 280))
    step(policy, [0, 1, 2], [0.0, 0.0, 0.0])
    assert policy.agent.asked[0][0].tolist() == [[200, 280]] * 3
    assert policy.first_commands.tolist() == [[200, 280]] * 3


def test_the_horizon_falls_to_1_and_the_return_by_the_reward():
    policy = begun((3, 10.0), n=2)
    for rewards in ([1.0, -2.0], [0.5, 0.0], [4.0, 1.0], [0.0, 0.0]):
        step(policy, [0, 1], rewards)
    asked = [command.tolist() for command, _ in policy.agent.asked]
    assert asked == [
        [[3, 10], [3, 10]],
        [[2, 9], [2, 12]],
        [[1, 8.5], [1, 12]],
        [[1, 4.5], [1, 11]],
    ]
    assert policy.steps.tolist() == [4, 4]


def test_only_the_rows_that_act_change():
    policy = begun((50, 10.0), n=4)
    step(policy, [0, 1, 2, 3], [0, 0, 0, 0])
    step(policy, [3, 1], [5.0, 7.0])
    assert policy.commands.tolist() == [[49, 10], [48, 3], [49, 10], [48, 5]]
    assert policy.steps.tolist() == [1, 2, 1, 2]
    step(policy, [2], [1.0])
    assert policy.agent.asked[-1][0].tolist() == [[49, 10]]


def test_a_new_beginning_forgets_the_last_episodes():
    policy = begun((50, 300.0), n=2, guard=ceiling_shield())
    step(policy, [0, 1], [1.0, 1.0])
    policy.begin(np.zeros((5, 2)))
    assert policy.commands.tolist() == [[50, 300]] * 5
    assert policy.steps.tolist() == policy.flagged.tolist() == [0] * 5
    assert policy.flagged_at_start.tolist() == [False] * 5
    assert policy.first_commands.shape == (5, 2)


def test_the_agent_goes_on_from_the_replacement():
    policy = begun((50, 300.0), n=2, guard=ceiling_shield())
    step(policy, [0, 1], [30.0, -30.0])
    # (40, 100) took the place of (50, 300); 100 + 30 is too much once more
    step(policy, [0, 1], [0.0, 0.0])
    asked = [command.tolist() for command, _ in policy.agent.asked]
    assert asked == [[[40, 100], [40, 100]], [[39, 70], [40, 100]]]
    assert policy.flagged.tolist() == [1, 2]
    assert policy.flagged_at_start.tolist() == [True, True]
    assert policy.first_commands.tolist() == [[40, 100]] * 2


def test_flags_are_counted_by_episode_and_the_start_is_the_first_step_only():
    policy = begun((50, 80.0), n=3, guard=ceiling_shield())
    steep = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    step(policy, [0, 1, 2], [0.0, 0.0, 0.0], states=steep)
    assert policy.flagged.tolist() == [0, 1, 0]
    step(policy, [2, 0], [0.0, 0.0], states=np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert policy.flagged.tolist() == [0, 1, 1]
    assert policy.flagged_at_start.tolist() == [False, True, False]
    assert policy.first_commands.tolist() == [[50, 80], [40, 10], [50, 80]]


def test_a_shield_that_supports_everything_changes_nothing():
    with_shield, without = begun((50, 80.0), guard=ceiling_shield()), begun((50, 80.0))
    without.agent.load_state_dict(with_shield.agent.state_dict())
    for rewards in ([1.0, 2.0, 3.0], [0.0, -1.0, 5.0]):
        actions = [step(policy, [0, 1, 2], rewards) for policy in (with_shield, without)]
        assert np.array_equal(*actions)
    assert torch.equal(with_shield.commands, without.commands)
    assert with_shield.flagged.tolist() == [0, 0, 0]


@pytest.mark.parametrize("deterministic", [True, False])
def test_actions_are_the_agents(deterministic):
    policy = begun((1, 0.5), n=200, deterministic=deterministic)
    actions = step(policy, range(200), np.zeros(200))
    assert actions.shape == (200, 1) and actions.dtype == np.float32
    assert policy.agent.asked[0][1] is deterministic
    assert (np.ptp(actions) < 1e-6) == deterministic


def test_a_command_that_is_none_is_refused():
    agent = UDRLAgent(3, 1, hidden_dim=8, n_layers=1)
    for command in ((200.0, float("nan")), (float("inf"), 1.0), (0.0, 280.0)):
        with pytest.raises(DataError, match="horizon of at least 1 step"):
            CommandedPolicy(agent, command)


def test_every_episode_may_have_a_command_of_its_own():
    requests = np.array([[50, 10.0], [1, 3.0], [7, -2.0]])
    policy = begun(requests)
    step(policy, [0, 1, 2], [1.0, 1.0, 1.0])
    step(policy, [2, 0], [0.0, 0.0])
    asked = [command.tolist() for command, _ in policy.agent.asked]
    assert asked == [requests.tolist(), [[6, -3], [49, 9]]]
    assert policy.first_commands.tolist() == requests.tolist()


def test_commands_that_do_not_fit_the_episodes_are_refused():
    from flowshield.errors import ShapeError

    with pytest.raises(ShapeError, match="each of 3 episodes, got 2"):
        begun(np.ones((2, 2)), n=3)
    with pytest.raises(ShapeError, match=r"\[2\], or one per episode"):
        begun(np.ones((2, 3)))
    with pytest.raises(DataError, match=r"got \(0.0, 4.0\)"):
        begun(np.array([[2.0, 3.0], [0.0, 4.0]]), n=2)


class FanShield(BaseShield):
    """Offers (40, 0), (40, 10), (40, 20) and so on at every state."""

    def compute_loss(self, state, command):
        raise NotImplementedError

    def log_prob(self, state, command, n_steps=None):
        return torch.zeros(len(state))

    def sample_with_log_prob(self, state, n_samples, generator=None):
        ret = 10.0 * torch.arange(n_samples).expand(len(state), -1)
        samples = torch.stack([torch.full_like(ret, 40.0), ret], dim=2)
        return samples, torch.zeros(len(state), n_samples)

    def project_in_detail(self, state, command, n_steps=None, lr=None):
        """The nearest supported command is (45, 45); at a state of NaN there is none."""
        nearest = torch.full_like(command, 45.0)
        nearest[state.isnan().any(dim=1)] = torch.nan
        score, yes = torch.zeros(len(state)), torch.ones(len(state), dtype=torch.bool)
        return Projection(nearest, score, score, yes, yes)


class KnownLaw(OutcomeModel):
    """Two members, whose means are a formula's plus and minus its deviation / sqrt(2).

    Args:
        formula: (states, commands [batch, m, 2]) -> mean, deviation, failure, each [batch, m].
    """

    def __init__(self, formula, **options):
        super().__init__(2, n_members=2, n_levels=4, **options)
        self.formula, self.asked = formula, []

    def law(self, state, commands):
        self.asked.append(commands.clone())
        mean, deviation, failure = self.formula(state, commands)
        half = torch.as_tensor(deviation).expand_as(mean) / math.sqrt(2)
        returns = torch.stack([mean + half, mean - half]).unsqueeze(-1).expand(-1, -1, -1, 4)
        chance = torch.as_tensor(failure).expand_as(mean)
        if not self.knows_failure:
            chance = torch.full_like(mean, torch.nan)
        return Law(returns, torch.full_like(returns, 40.0), chance.expand(2, *mean.shape))


def obeys_up_to(limit, deviation=0.0, failure=0.0):
    """The policy gets R up to a limit, and nothing where more is asked."""

    def formula(state, commands):
        asked = commands[..., 1]
        return torch.where(asked <= limit, asked, 0.0), deviation, failure

    return formula


def outcome_guard(formula, rule=1.0, every=1, intent="at_least", n_candidates=10, **options):
    model = KnownLaw(formula, **options)
    shield = FanShield(2)
    return OutcomeGuard(shield, model, Intent(intent), 100.0, rule, every, n_candidates)


def decided(guard, *requests):
    request = torch.tensor(requests)
    return guard.decide(torch.zeros(len(request), 2), request, request)


def test_a_clear_gain_replaces_and_nothing_else_does():
    guard = outcome_guard(obeys_up_to(85.0))
    decision = decided(guard, (50.0, 200.0), (50.0, 84.0), (50.0, 5.0))
    assert decision.command.tolist() == [[40, 80], [50, 84], [50, 5]]
    assert decision.replaced.tolist() == [True, False, False]


def test_a_gain_within_the_members_disagreement_is_none():
    """Obeyed, 200 gets 0; (40, 80) gets 80 with a deviation of 100, or of 30."""

    def unsure(deviation):
        def formula(state, commands):
            asked = commands[..., 1]
            mean = torch.where(asked == 80.0, 80.0, 0.0)
            return mean, torch.where(asked == 80.0, deviation, 0.0), 0.0

        return formula

    for deviation, replaced in ((100.0, False), (30.0, True)):
        assert decided(outcome_guard(unsure(deviation)), (50.0, 200.0)).replaced == replaced
        assert decided(outcome_guard(unsure(deviation), rule=0.0), (50.0, 200.0)).replaced


def test_a_gain_below_a_hundredth_of_the_range_is_none():
    def slightly(gain):
        return lambda state, commands: (gain * (commands[..., 1] == 80.0), 0.0, 0.0)

    assert not decided(outcome_guard(slightly(0.9)), (50.0, 200.0)).replaced
    assert decided(outcome_guard(slightly(1.1)), (50.0, 200.0)).replaced


@pytest.mark.parametrize("intent", ["at_least", "exact"])
@pytest.mark.parametrize("knows_failure", [True, False])
def test_a_bolder_rule_replaces_wherever_a_more_cautious_one_does(intent, knows_failure):
    generator = torch.Generator().manual_seed(0)
    states, requests = torch.zeros(400, 2), 100 * torch.rand(400, 2, generator=generator) + 1

    def noise(state, commands):
        draws = torch.Generator().manual_seed(1)
        mean, deviation, failure = torch.rand(3, *commands.shape[:2], generator=draws)
        told = torch.stack([10 * mean, 10 * deviation**2, 0.05 * failure])
        told[:, :, 1] = told[:, :, 0]  # what is carried out is the request itself
        return told

    guard = outcome_guard(noise, intent=intent, knows_failure=knows_failure)
    found = guard.replaced_by(states, requests, RULES)
    assert (found[1:] >= found[:-1]).all()
    shares = found.double().mean(dim=1)
    assert shares[0] < 0.5 < shares[-1]
    for rule, replaced in zip(RULES, found, strict=True):  # and it is what each one decides
        decision = guard.with_rule(rule).decide(states, requests, requests)
        assert torch.equal(decision.replaced, replaced), rule


def test_more_failures_are_no_gain():
    def risky(failure):
        def formula(state, commands):
            asked = commands[..., 1]
            return obeys_up_to(85.0)(state, commands)[0], 0.0, failure * (asked == 80.0)

        return formula

    command = decided(outcome_guard(risky(0.02)), (50.0, 200.0)).command
    assert command.tolist() == [[40, 70]]  # the next best, which fails no more often
    assert decided(outcome_guard(risky(0.005)), (50.0, 200.0)).command.tolist() == [[40, 80]]
    unknown = outcome_guard(risky(0.02), knows_failure=False)
    assert decided(unknown, (50.0, 200.0)).command.tolist() == [[40, 80]]
    assert unknown.n_uncomputed == 0


def test_what_cannot_be_predicted_is_not_chosen_and_counted():
    def partly(state, commands):
        asked = commands[..., 1]
        return (
            torch.where(asked == 80.0, torch.nan, obeys_up_to(85.0)(state, commands)[0]),
            0.0,
            0.0,
        )

    guard = outcome_guard(partly)
    assert decided(guard, (50.0, 200.0)).command.tolist() == [[40, 70]]
    assert guard.n_uncomputed == 1
    decided(guard, (50.0, 200.0), (50.0, 300.0))
    assert guard.n_uncomputed == 3
    assert guard.with_rule(0.0).n_uncomputed == 0  # another guard's


@pytest.mark.parametrize("nan", ["mean", "deviation", "failure"])
def test_a_request_of_which_nothing_is_known_is_left_alone_and_counted(nan):
    def formula(state, commands):
        told = {"mean": 10.0, "deviation": 0.0, "failure": 0.0}
        values = {key: torch.full(commands.shape[:2], v) for key, v in told.items()}
        values["mean"][:, 2:] = 90.0
        values[nan][:, 0] = torch.nan
        return tuple(values.values())

    for rule in RULES:
        guard = outcome_guard(formula, rule)
        decision = decided(guard, (50.0, 200.0))
        assert decision.command.tolist() == [[50, 200]] and not decision.replaced
        assert guard.n_uncomputed >= 1


def test_predictions_that_cannot_be_computed_reach_the_record_of_a_cell():
    def nothing(state, commands):
        return torch.full(commands.shape[:2], torch.nan), 0.0, 0.0

    envs = [make_env("pendulum", max_episode_steps=6) for _ in range(2)]
    agent = UDRLAgent(3, 1, hidden_dim=4, n_layers=1)
    guard = outcome_guard(nothing, every=3, n_candidates=4)
    guard.shield = FanShield(3)
    cell, alone = (evaluate_agent(agent, envs, (6, -10.0), g, n_episodes=2) for g in (guard, None))
    decisions, candidates = 2 * 2, 1 + 1 + 4
    assert cell.n_uncomputed == decisions * candidates
    assert cell_record(cell, alone.returns)["n_uncomputed"] == decisions * candidates
    assert cell.returns == alone.returns  # the requests were left alone


@pytest.mark.parametrize("wanted", [True, False])
def test_the_projection_of_the_request_is_a_candidate_if_wanted(wanted):
    def only_there(state, commands):
        return 90.0 * (commands[..., 1] == 45.0), 0.0, 0.0

    guard = replace(outcome_guard(only_there), projection=wanted)
    assert decided(guard, (50.0, 200.0)).command.tolist() == [[45, 45] if wanted else [50, 200]]
    assert guard.settings()["projection"] == wanted


def test_where_there_is_no_projection_the_others_are_compared():
    guard = replace(outcome_guard(obeys_up_to(85.0)), projection=True)
    request, nowhere = torch.tensor([[50.0, 200.0]]), torch.full((1, 2), torch.nan)
    assert guard.decide(nowhere, request, request).command.tolist() == [[40, 80]]


def test_an_infinite_rule_never_replaces_and_asks_nobody():
    guard = outcome_guard(obeys_up_to(85.0), rule=math.inf)
    assert not decided(guard, (50.0, 200.0)).replaced and guard.outcome.asked == []
    assert guard.settings()["rule"] is None


def test_one_member_cannot_disagree():
    guard = outcome_guard(obeys_up_to(85.0))
    law = guard.outcome.law
    guard.outcome.law = lambda *asked: Law(*(part[:1] for part in law(*asked)))
    assert decided(guard, (50.0, 200.0)).command.tolist() == [[40, 80]]


def test_decisions_come_every_so_many_steps():
    guard = outcome_guard(obeys_up_to(85.0), every=3)
    policy = begun((50, 200.0), n=2, guard=guard)
    for _ in range(4):
        step(policy, [0, 1], [0.0, 0.0])
    step(policy, [1], [0.0])  # an episode that is over is asked about no more
    step(policy, [1], [0.0])
    step(policy, [1], [0.0])
    assert [len(asked) for asked in guard.outcome.asked] == [2, 2, 1]
    assert policy.flagged.tolist() == [2, 3] and policy.flagged_at_start.all()


def test_the_requests_own_residual_is_kept_beside_the_command():
    guard = outcome_guard(obeys_up_to(85.0), every=2)
    policy = begun((50, 200.0), n=1, guard=guard)
    for reward in (30.0, 20.0):
        step(policy, [0], [reward])
    assert policy.requests.tolist() == [[48, 150]] and policy.commands.tolist() == [[38, 30]]
    step(policy, [0], [0.0])
    first, second = (asked[0, :2].tolist() for asked in guard.outcome.asked)
    assert first == [[50, 200], [50, 200]]  # the request, and what is carried out
    assert second == [[48, 150], [38, 30]]
    assert policy.first_commands.tolist() == [[40, 80]]


def test_a_replacement_is_not_for_good():
    """Once the rest of the request is within reach it is obeyed again."""
    policy = begun((50, 100.0), n=1, guard=outcome_guard(obeys_up_to(85.0), every=1))
    step(policy, [0], [20.0])
    assert policy.commands.tolist() == [[39, 60]]  # of (40, 80)
    step(policy, [0], [1.0])
    assert policy.commands.tolist() == policy.requests.tolist() == [[48, 79]]
    assert policy.flagged.tolist() == [1]


def test_a_horizon_below_1_is_none():
    guard = outcome_guard(obeys_up_to(85.0))
    guard.shield.sample_with_log_prob = lambda state, n, generator=None: (
        torch.tensor([-3.0, 80.0]).expand(len(state), n, 2),
        torch.zeros(len(state), n),
    )
    assert decided(guard, (50.0, 200.0)).command.tolist() == [[1, 80]]


def test_another_policy_than_the_probed_one_is_refused():
    agent, other = (UDRLAgent(2, 1, hidden_dim=4, n_layers=1) for _ in range(2))
    guard = outcome_guard(obeys_up_to(85.0), policy_checksum=weights_checksum(agent))
    CommandedPolicy(agent, (50, 10.0), guard)
    with pytest.raises(ConfigError, match="outcome model was fitted to .* probe this policy"):
        CommandedPolicy(other, (50, 10.0), guard)
    with pytest.raises(ConfigError, match="outcome model was fitted to"):
        ShieldedPolicy(other, guard).begin(np.zeros(2), (50, 10.0))
    unnamed = outcome_guard(obeys_up_to(85.0))  # fitted to a policy without weights
    CommandedPolicy(other, (50, 10.0), unnamed)


@pytest.mark.parametrize(
    "wrong", [{"rule": -1.0}, {"rule": math.nan}, {"every": 0}, {"n_candidates": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="rule >= 0, every >= 1 and n_candidates >= 1"):
        outcome_guard(obeys_up_to(85.0), **wrong)


def test_a_guards_settings_name_its_model():
    first, other = (outcome_guard(obeys_up_to(85.0)) for _ in range(2))
    other.outcome.margin.add_(0.1)
    assert first.settings() != other.settings()  # of other weights
    assert first.settings() == first.with_rule(1.0).settings() != first.with_rule(2.0).settings()


def test_a_support_guard_that_does_not_last_starts_from_the_request():
    guard = SupportGuard(ceiling_shield(), lasting=False)
    policy = begun((50, 110.0), n=1, guard=guard)
    step(policy, [0], [30.0])
    step(policy, [0], [0.0])
    asked = [command.tolist() for command, _ in policy.agent.asked]
    assert asked == [[[40, 100]], [[49, 80]]]
    assert policy.flagged.tolist() == [1]


@pytest.mark.parametrize("with_guard", [True, False])
def test_an_episodes_actions_do_not_depend_on_the_rows_beside_it(with_guard):
    guard = outcome_guard(obeys_up_to(85.0), every=2) if with_guard else None
    agent = UDRLAgent(2, 1, hidden_dim=4, n_layers=1)
    requests = np.array([[50, 200.0], [40, 10.0], [30, 90.0]])
    agent.command_standardizer.fit(torch.tensor(requests, dtype=torch.float32))

    def actions(rows):
        asked, seeds = requests[rows], [100 + row for row in rows]
        policy = CommandedPolicy(agent, asked, guard, deterministic=False, seeds=seeds)
        policy.begin(np.zeros((len(rows), 2)))
        found = []
        for _ in range(4):
            found.append(step(policy, range(len(rows)), np.ones(len(rows))))
        return np.stack(found, axis=1)

    together, alone = actions([0, 1, 2]), [actions([row])[0] for row in range(3)]
    assert np.allclose(together, np.stack(alone), atol=1e-6)
    assert np.allclose(actions([2, 0]), together[[2, 0]], atol=1e-6)
    assert np.ptp(together) > 0.01


@pytest.mark.parametrize("kind", ["none", "shield", "outcome"])
def test_a_shielded_policy_acts_as_the_commanded_one(kind):
    guard = {"none": None, "shield": ceiling_shield()}.get(
        kind, outcome_guard(obeys_up_to(85.0), every=2)
    )
    agent = UDRLAgent(2, 1, hidden_dim=4, n_layers=1)
    batch = CommandedPolicy(agent, (50, 200.0), guard, deterministic=False, seeds=[7])
    one = ShieldedPolicy(agent, guard, deterministic=False)
    state = np.zeros(2)
    batch.begin(state[None])
    one.begin(state, (50, 200.0), seed=7)
    for reward in (1.5, -2.0, 30.0):
        assert np.array_equal(batch.act(state[None], np.arange(1))[0], one.act(state))
        batch.observe(np.array([reward]), np.arange(1))
        one.observe(reward)
        assert list(one.request) == batch.requests[0].tolist()
        assert list(one.command) == batch.commands[0].tolist()
    one.begin(state, (9, 3.0))
    assert one.request == one.command == (9.0, 3.0)


def test_the_example_of_the_shielded_policy_runs():
    example = ShieldedPolicy.__doc__.split("\n\n")[1]
    agent, guard = UDRLAgent(2, 1, hidden_dim=4, n_layers=1), outcome_guard(obeys_up_to(85.0))
    names = {"ShieldedPolicy": ShieldedPolicy, "agent": agent, "guard": guard}
    names |= {"state": np.zeros(2), "reward": 1.0}
    exec(textwrap.dedent(example), names)
    assert names["action"].shape == (1,)
    assert names["policy"].request == (499.0, 499.0)


def test_a_shielded_policy_says_what_it_expects():
    agent = UDRLAgent(2, 1, hidden_dim=4, n_layers=1)
    policy = ShieldedPolicy(agent, outcome_guard(obeys_up_to(85.0)))
    with pytest.raises(DataError, match=r"expected begin\(state, command\)"):
        policy.act(np.zeros(2))
    model = OutcomeModel(2, n_members=2, hidden_dim=4)
    guard = OutcomeGuard(FanShield(2), model, Intent(), 100.0)
    told = ShieldedPolicy(agent, guard).predicted(np.zeros(2), (50, 10.0))
    expected = model.predict(torch.zeros(1, 2), torch.tensor([[50.0, 10.0]]))
    assert told.mean.shape == (1,) and torch.equal(told.mean, expected.mean)
    with pytest.raises(ConfigError, match="expected an OutcomeGuard, which predicts outcomes"):
        ShieldedPolicy(agent, ceiling_shield()).predicted(np.zeros(2), (50, 10.0))
