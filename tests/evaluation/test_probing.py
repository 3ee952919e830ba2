"""Probes of an untrained agent on a short pendulum, with a real shield."""

from functools import partial

import numpy as np
import pytest
import torch

from flowshield.data import DataCollector
from flowshield.envs import make_env
from flowshield.errors import ConfigError
from flowshield.evaluation.agent import start_seeds
from flowshield.evaluation.probing import PARTS, ProbePlan, probed
from flowshield.models import UDRLAgent
from flowshield.models.shields import MixtureShield

REQUESTS = [(20.0, -100.0), (90.0, 500.0)]


@pytest.fixture(scope="module")
def episodes():
    return DataCollector(make_env("pendulum", max_episode_steps=30)).collect(40, seed=0)


@pytest.fixture(scope="module")
def shields(episodes):
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        shield = MixtureShield(3, hidden_dim=8, n_layers=1, n_components=2)
        shield.fit_standardizers(*map(torch.as_tensor, (episodes.states, episodes.commands)))
        made.append(shield.eval())
        made[-1].calibrate(episodes, alpha=0.2)
    return made


@pytest.fixture(scope="module")
def plan(episodes):
    return ProbePlan.of_data(7, episodes.commands, REQUESTS)


@pytest.fixture(scope="module")
def roll_out(plan, shields):
    torch.manual_seed(0)
    agent = UDRLAgent(3, 1, hidden_dim=8, n_layers=1)
    envs = [make_env("pendulum", max_episode_steps=10) for _ in range(20)]
    return partial(probed, plan, envs=envs, agent=agent, shields=shields, deterministic=True)


def states_of(n, seed=0):
    angle = np.random.default_rng(seed).uniform(-3, 3, n)
    return np.stack([np.cos(angle), np.sin(angle), angle / 3], axis=1).astype(np.float32)


def test_no_two_parts_share_a_start_nor_does_an_evaluation(plan):
    seeds = {part: set(plan.seeds(part, range(600))) for part in PARTS}
    assert [len(found) for found in seeds.values()] == [600] * 3
    assert not seeds["fit"] & seeds["validation"]
    assert not (seeds["fit"] | seeds["validation"]) & seeds["certificate"]
    assert not set().union(*seeds.values()) & set(start_seeds(plan.seed, 2000))
    for number, part in enumerate(PARTS):  # by construction, not by luck
        assert {seed % len(PARTS) for seed in seeds[part]} == {number}
    assert all(0 <= seed < 2**31 for seed in set().union(*seeds.values()))


def test_a_start_that_an_evaluation_has_is_drawn_again(plan, monkeypatch):
    from flowshield.evaluation import probing

    first = plan.seeds("fit", range(5))
    taken = frozenset(first[1:3])
    monkeypatch.setattr(probing, "_evaluated_seeds", lambda seed: taken)
    again = plan.seeds("fit", range(5))
    assert not taken & set(again) and [again[i] for i in (0, 3, 4)] == [first[i] for i in (0, 3, 4)]


def test_seeds_depend_on_seed_part_and_number_alone(plan, episodes):
    assert plan.seeds("fit", [9, 3]) == [plan.seeds("fit", range(10))[i] for i in (9, 3)]
    other = ProbePlan.of_data(8, episodes.commands, REQUESTS)
    assert not set(plan.seeds("fit", range(50))) & set(other.seeds("fit", range(50)))


def test_the_box_is_wider_than_the_data_and_holds_the_requests(plan, episodes):
    commands = episodes.commands
    assert plan.low[0] == 1.0 and plan.high[0] == 90.0  # a request beyond 1.25 of the longest
    assert plan.high[1] == 500.0
    narrow = ProbePlan.of_data(7, commands, [(5.0, -50.0)])
    assert narrow.high[0] == pytest.approx(1.25 * 30)
    low, high = np.quantile(commands[:, 1], [1e-3, 1 - 1e-3])
    assert narrow.low[1] == pytest.approx(low)
    assert narrow.high[1] == pytest.approx(high + 0.5 * (high - low))


@pytest.mark.parametrize("part", ["fit", "validation"])
def test_half_of_the_requests_are_supported_and_half_from_the_box(part, plan, shields):
    indices, states = list(range(200)), states_of(200)
    asked = plan.requests(part, indices, states, shields)
    even, odd = asked[::2], asked[1::2]
    for number, shield in enumerate(shields):  # which take turns
        mine = np.arange(0, 200, 2)[number::2]
        flagged = shield.is_ood(
            torch.as_tensor(states[mine]), torch.as_tensor(asked[mine], dtype=torch.float32)
        )
        assert not flagged.any()
    assert (even[:, 0] == even[:, 0].round()).all()  # in whole steps
    low, high = np.array(plan.low), np.array(plan.high)
    assert ((low <= odd) & (odd <= high)).all()
    spread = (odd - low) / (high - low)
    assert np.allclose(spread.mean(axis=0), 0.5, atol=0.1)
    assert np.allclose(spread.std(axis=0), 12**-0.5, atol=0.05)


def test_every_request_of_a_certificate_is_supported_at_its_start(plan, shields):
    indices, states = list(range(100)), states_of(100)
    asked = plan.requests("certificate", indices, states, shields)
    for number, shield in enumerate(shields):
        mine = np.arange(number, 100, 2)
        flagged = shield.is_ood(
            torch.as_tensor(states[mine]), torch.as_tensor(asked[mine], dtype=torch.float32)
        )
        assert not flagged.any()
    assert len(np.unique(asked, axis=0)) > 90


@pytest.mark.parametrize("part", PARTS)
def test_more_episodes_only_extend(part, roll_out):
    few, many, later = roll_out(part, range(4)), roll_out(part, range(9)), roll_out(part, [6, 7])
    for ours, theirs in zip(few, many, strict=False):
        assert ours.seed == theirs.seed
        assert ours.command == pytest.approx(theirs.command, rel=1e-5)
        assert np.allclose(ours.episode.states, theirs.episode.states, atol=1e-4)
    assert [e.seed for e in later] == [e.seed for e in many[6:8]]
    assert later[0].command == pytest.approx(many[6].command, rel=1e-5)


def test_the_policy_acts_alone_under_what_it_was_asked(roll_out):
    episodes = roll_out("fit", range(6))
    assert all(e.first_command == e.command and e.flagged_steps == 0 for e in episodes)
    again = roll_out("fit", range(6))
    for ours, theirs in zip(episodes, again, strict=True):
        assert ours.command == theirs.command
        assert np.array_equal(ours.episode.rewards, theirs.episode.rewards)


def test_without_a_shield_all_is_from_the_box_and_nothing_is_certified(plan):
    asked = plan.requests("fit", list(range(50)), states_of(50), [])
    assert ((np.array(plan.low) <= asked) & (asked <= np.array(plan.high))).all()
    assert (asked[:, 0] != asked[:, 0].round()).all()
    with pytest.raises(ConfigError, match="at least one shield for a certificate"):
        plan.requests("certificate", [0], states_of(1), [])


def test_an_unknown_part_is_refused(plan):
    with pytest.raises(ConfigError, match="part of a probe 'test'.*certificate"):
        plan.seeds("test", [0])
