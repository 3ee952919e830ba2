"""Controls keep the laws of shields as far as they claim to."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import make_env
from flowshield.errors import ConfigError
from flowshield.evaluation import auc_roc, evaluate_agent, evaluate_shield
from flowshield.models import UDRLAgent
from flowshield.models.shields.projection import Projection

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ["box", "state_box", "clip", "knn"]


@pytest.fixture(scope="module")
def controls():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("controls")
    sys.path.remove(str(BENCHMARKS))


def episodes(n, seed):
    """One-step episodes: H = 1 always, R ~ N(10 s, 1) at a state s in [-1, 1]."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    rewards = 10 * states[:, 0] + rng.standard_normal(n)
    return TrajectoryDataset.from_arrays(states, states, rewards, np.ones(n, bool))


@pytest.fixture(scope="module")
def chain():
    return DataCollector(make_env("geometric_chain")).collect(400, seed=0)


@pytest.fixture(scope="module", params=NAMES)
def control(request, controls, chain):
    made = controls.make_control(request.param, chain)
    made.calibrate(DataCollector(make_env("geometric_chain")).collect(300, seed=1), alpha=0.1)
    return made


def requests(chain, n=300):
    rng = np.random.default_rng(2)
    steps = rng.choice(len(chain), n)
    commands = chain.commands[steps] + rng.normal(size=(n, 2)).astype(np.float32) * [30, 15]
    commands[:, 0] = np.maximum(commands[:, 0], 1)
    return torch.as_tensor(chain.states[steps]), torch.as_tensor(commands, dtype=torch.float32)


def test_every_name_makes_its_control(controls, chain):
    assert list(controls.CONTROLS) == NAMES
    with pytest.raises(ConfigError, match="unknown control 'bx'.*box"):
        controls.make_control("bx", chain)


def test_the_promised_share_is_flagged(controls):
    for name in NAMES:
        control = controls.make_control(name, episodes(2000, 0))
        control.calibrate(episodes(999, 1), alpha=0.1)
        test = episodes(4000, 2)
        flagged = control.is_ood(torch.as_tensor(test.states), torch.as_tensor(test.commands))
        assert flagged.float().mean() == pytest.approx(0.1, abs=0.04), name


def test_boxes_by_state_and_neighbours_see_the_state_and_the_others_do_not(controls):
    train, test = episodes(20_000, 0), episodes(2000, 1)
    states, true = torch.as_tensor(test.states), torch.as_tensor(test.commands)
    other = true.flip(0)  # what was fulfilled at another state
    auroc = {}
    for name in NAMES:
        control = controls.make_control(name, train)
        auroc[name] = auc_roc(-control.score(states, other), -control.score(states, true))
    assert auroc["box"] == pytest.approx(0.5, abs=0.02)
    assert auroc["clip"] == pytest.approx(0.5, abs=0.02)
    assert auroc["state_box"] > 0.85 and auroc["knn"] > 0.85


def test_a_projection_leaves_what_is_supported_alone_and_repeats(control, chain):
    states, commands = requests(chain)
    result = control.project_in_detail(states, commands)
    assert isinstance(result, Projection)
    supported = ~control.is_ood(states, commands)
    assert 0.05 < supported.float().mean() < 0.98
    assert torch.equal(result.command[supported], commands[supported])
    assert not result.changed[supported].any() and not result.distance[supported].any()
    again = control.project_in_detail(states, result.command)
    assert torch.equal(again.command, result.command)
    assert (result.command[:, 0] >= 1).all()


def test_what_a_projection_calls_supported_rechecks(control, chain):
    states, commands = requests(chain)
    result = control.project_in_detail(states, commands)
    assert torch.equal(result.supported, ~control.is_ood(states, result.command))
    if control.shield_type in ("box", "state_box"):
        assert result.supported.all()


def test_a_box_changes_only_the_side_that_is_outside(controls):
    rng = np.random.default_rng(0)
    ends = np.arange(5000) % 10 == 9
    states = rng.normal(size=(5000, 1)).astype(np.float32)
    data = TrajectoryDataset.from_arrays(states, states, rng.normal(size=5000), ends)
    box = controls.make_control("box", data)
    box.calibrate(data, alpha=0.01)
    command = torch.tensor([[5.0, 1000.0], [500.0, 0.0], [5.0, 0.0]])
    projected = box.project(torch.zeros(3, 1), command)
    assert projected[0, 0] == 5.0 and projected[0, 1] < 15.0
    assert projected[1, 1] == 0.0 and projected[1, 0] < 15.0
    assert torch.equal(projected[2], command[2])


def test_the_clip_is_to_the_highest_return_of_the_data(controls, chain):
    clip = controls.make_control("clip", chain)
    clip.calibrate(chain, alpha=0.05)
    highest = float(chain.commands[:, 1].max())
    command = torch.tensor([[7.0, highest + 50.0], [7.0, highest], [300.0, -1e6]])
    projected = clip.project(torch.zeros(3, 2), command)
    assert projected.tolist() == [[7.0, highest], [7.0, highest], [300.0, -1e6]]


def test_scores_do_not_depend_on_the_batch(control, chain):
    states, commands = requests(chain, 40)
    one_by_one = [control.score(states[i : i + 1], commands[i : i + 1]) for i in range(40)]
    torch.testing.assert_close(control.score(states, commands), torch.cat(one_by_one))


def test_what_is_not_finite_is_flagged(control):
    bad = torch.tensor([[float("nan"), 1.0], [5.0, float("inf")]])
    assert control.is_ood(torch.zeros(2, 2), bad).all()


def test_the_evaluators_and_the_agent_take_a_control_for_a_shield(control, chain):
    result = evaluate_shield(control, chain, n_states=200)
    assert 0.0 <= result["false_positive_rate"] <= 0.3 and result["auc_roc"] > 0.7
    envs = [make_env("geometric_chain", mean_horizons=(2.0, 3.0)) for _ in range(3)]
    agent = UDRLAgent(2, 1, hidden_dim=8)
    cell = evaluate_agent(agent, envs, (5.0, 50.0), control, n_episodes=3, seed=0)
    assert len(cell.episodes) == 3
