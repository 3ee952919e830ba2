"""Guards on a short pendulum: what is said of them without a rollout, held against rollouts."""

import math

import numpy as np
import pytest
import torch

from flowshield.data import DataCollector
from flowshield.envs import make_env
from flowshield.evaluation.agent import run_batch, start_seeds
from flowshield.evaluation.certificate import certify
from flowshield.evaluation.certifying import (
    certified_guard,
    outcomes_of,
    paired_losses,
    would_replace,
)
from flowshield.evaluation.outcome_record import outcome_record, outcome_text, rows_of
from flowshield.evaluation.probing import ProbePlan, probed
from flowshield.models import Intent, OutcomeGuard, OutcomeModel, UDRLAgent
from flowshield.models.outcome import weights_checksum
from flowshield.models.policy import RULES
from flowshield.models.shields import MixtureShield

STEPS, N = 12, 24


@pytest.fixture(scope="module")
def parts():
    episodes = DataCollector(make_env("pendulum", max_episode_steps=STEPS)).collect(60, seed=0)
    torch.manual_seed(0)
    shield = MixtureShield(3, hidden_dim=8, n_layers=1, n_components=2)
    shield.fit_standardizers(*map(torch.as_tensor, (episodes.states, episodes.commands)))
    shield.eval().calibrate(episodes, alpha=0.2)
    agent = UDRLAgent(3, 1, hidden_dim=8, n_layers=1)
    agent.command_standardizer.fit(torch.as_tensor(episodes.commands, dtype=torch.float32))
    return (
        episodes,
        shield,
        agent,
        [make_env("pendulum", max_episode_steps=STEPS) for _ in range(N)],
    )


@pytest.fixture(scope="module")
def probes(parts):
    episodes, shield, agent, envs = parts
    plan = ProbePlan.of_data(3, episodes.commands, [(12.0, -50.0)])
    return {
        part: probed(plan, part, range(N), envs, agent, [shield], deterministic=True)
        for part in ("fit", "validation", "certificate")
    }


@pytest.fixture(scope="module")
def model(parts, probes):
    outcome = OutcomeModel(3, n_members=3, hidden_dim=16, knows_failure=False)
    fit, validation = (rows_of(probes[part], 0) for part in ("fit", "validation"))
    return outcome.fit(fit, validation, n_steps=60)


@pytest.fixture
def guard(parts, model):
    return OutcomeGuard(parts[1], model, Intent(), 40.0, every=4, n_candidates=12)


def again(parts, guard, those):
    _, _, agent, envs = parts
    commands, seeds = [e.command for e in those], [e.seed for e in those]
    return run_batch(envs[: len(those)], agent, commands, guard, seeds)


def test_what_a_rule_would_replace_is_what_it_replaces_in_a_rollout(parts, probes, guard):
    alone = probes["certificate"]
    found = would_replace(guard, alone, RULES)
    assert found.shape == (len(RULES), N)
    for rule, replaces in zip(RULES, found, strict=True):
        lived = again(parts, guard.with_rule(rule), alone)
        assert [e.flagged_steps > 0 for e in lived] == replaces.tolist(), rule
        for ours, theirs, replaced in zip(lived, alone, replaces, strict=True):
            if not replaced:  # it is the same episode
                assert np.array_equal(ours.episode.rewards, theirs.episode.rewards)
                assert np.array_equal(ours.episode.states, theirs.episode.states)
    shares = found.mean(axis=1)
    assert 0 < shares[-1] and shares[0] < 1 and (np.diff(shares) >= 0).all()


@pytest.mark.parametrize("every", [1, 5, 100])
def test_it_holds_however_often_the_guard_decides(parts, probes, guard, every):
    guard.every = every
    lived = again(parts, guard.with_rule(0.25), probes["fit"])
    (found,) = would_replace(guard, probes["fit"], [0.25])
    assert [e.flagged_steps > 0 for e in lived] == found.tolist()


def test_an_infinite_rule_replaces_nothing_anywhere(parts, probes, guard):
    lived = again(parts, guard.with_rule(math.inf), probes["fit"])
    for ours, theirs in zip(lived, probes["fit"], strict=True):
        assert np.array_equal(ours.episode.rewards, theirs.episode.rewards)
        assert ours.flagged_steps == 0


def test_losses_are_those_of_playing_everything_again(parts, probes, guard):
    alone, played = probes["certificate"], []
    bold = guard.with_rule(0.0)
    (replaces,) = would_replace(guard, alone, [0.0])

    def run(those):
        played.extend(those)
        return again(parts, bold, those)

    losses = paired_losses(bold, alone, replaces, run)
    assert [e.seed for e in played] == [
        e.seed for e, hit in zip(alone, replaces, strict=True) if hit
    ]
    asked = np.array([e.command[1] for e in alone])
    got, without = (
        np.minimum([e.episode.total_return for e in which], asked)
        for which in (again(parts, bold, alone), alone)
    )
    assert np.allclose(losses.utility, without - got, atol=1e-6)
    assert (losses.utility[~replaces] == 0).all() and losses.failure is None
    assert np.array_equal(losses.replaced, replaces)


def test_outcomes_are_of_the_episodes(probes):
    found = outcomes_of(probes["fit"])
    assert found.failed is None and (np.asarray(found.steps) == STEPS).all()
    assert np.allclose(found.returns, [e.episode.rewards.sum() for e in probes["fit"]])


@pytest.mark.parametrize("harm", [0.0, 1.0])
def test_the_guard_of_a_certificate_has_its_rule_or_replaces_nothing(parts, model, guard, harm):
    from flowshield.evaluation.certificate import PairedLosses

    def losses(rule):
        return PairedLosses(np.full(200, 40.0 * harm), None, np.ones(200, dtype=bool))

    certificate = certify(
        RULES, losses, return_range=40.0, intent=Intent("exact"), epsilon=0.02, delta=0.05
    )
    made = certified_guard(
        certificate, parts[1], model, every=4, n_candidates=12, projection=True, name="mixture"
    )
    assert made.rule == (math.inf if harm else RULES[-1])
    assert (made.intent, made.return_range, made.every) == (Intent("exact"), 40.0, 4)
    assert (made.n_candidates, made.projection, made.name) == (12, True, "mixture")


def test_the_record_of_an_outcome_model_is_of_starts_and_later_steps(model, probes):
    record = outcome_record(model, probes["certificate"], 0)
    assert record["n_episodes"] == N and record["failure"] is None
    for share in record["coverage"].values():
        assert share["n"] == N and share["low"] <= share["rate"] <= share["high"]
    starts = rows_of(probes["certificate"], 0, n_rows=1)
    told = model.predict(starts.states, starts.commands)
    inside = (told.low <= starts.returns) & (starts.returns <= told.high)
    assert record["coverage"]["start"]["rate"] == pytest.approx(inside.double().mean().item())
    text = outcome_text(record)
    assert f"of {N} unseen episodes" in text and "bins" not in text


def test_starts_of_probes_are_no_starts_of_an_evaluation(probes):
    seeds = {e.seed for part in probes.values() for e in part}
    assert len(seeds) == 3 * N and not seeds & set(start_seeds(3, 500))


def test_checksums_tell_the_models_apart(parts, model):
    assert len({weights_checksum(m) for m in (*parts[1:3], model)}) == 3
