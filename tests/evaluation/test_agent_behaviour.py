"""An agent as a behaviour: the same bytes however episodes are grouped, and what it draws."""

import json
import math

import numpy as np
import pytest
import torch

from flowshield.data import (
    DataCollector,
    GroupBehaviour,
    TrajectoryDataset,
    as_behaviour,
    collect_episodes,
)
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError, NotCalibratedError, ShapeError
from flowshield.evaluation import AgentBehaviour, evaluate_agent
from flowshield.models import QuantileShield, UDRLAgent

COMMANDS = [(50, 250), (40, -100), (60, 0)]


def agent(seed=0):
    torch.manual_seed(seed)
    return UDRLAgent(8, 2, hidden_dim=50, n_layers=2).eval()


def lander():
    return make_env("lunarlander", max_episode_steps=60)


def collect(behaviour, n_envs, indices, seed=5):
    return collect_episodes([lander() for _ in range(n_envs)], behaviour, indices, seed)


def same_bytes(one, other):
    return all(
        np.asarray(getattr(one, name)).tobytes() == np.asarray(getattr(other, name)).tobytes()
        for name in one.__slots__
    )


@pytest.fixture(scope="module")
def shield():
    data = DataCollector(lander()).collect(40, seed=1)
    torch.manual_seed(0)
    made = QuantileShield(8, hidden_dim=32, n_layers=2).eval()
    made.fit_standardizers(torch.from_numpy(data.states), torch.from_numpy(data.commands))
    made.calibrate(data, alpha=0.2)
    return made


@pytest.mark.parametrize("shielded", [False, True])
def test_the_group_changes_nothing(shield, shielded):
    behaviour = AgentBehaviour(agent(), COMMANDS, shield if shielded else None, noise=0.3)
    ten = collect(behaviour, 1, range(10))
    for n_envs in (2, 7, 10):
        assert all(map(same_bytes, ten, collect(behaviour, n_envs, range(10))))
    scattered = [9, 73, 137, 3, 2]  # three of them have one place
    found = collect(behaviour, 5, scattered)
    assert all(map(same_bytes, found, collect(behaviour, 1, scattered)))
    assert same_bytes(found[0], ten[9])
    assert all(map(same_bytes, ten[::-1], collect(behaviour, 4, range(9, -1, -1))))
    assert not any(map(same_bytes, ten, collect(behaviour, 4, range(10), seed=6)))


def test_the_shield_has_its_say(shield):
    free, held = (AgentBehaviour(agent(), [(50, 900)], s) for s in (None, shield))
    assert not all(map(same_bytes, collect(free, 3, range(3)), collect(held, 3, range(3))))


def drawn(behaviour, n):
    return behaviour.draw_group([None] * n, [np.random.default_rng(i) for i in range(n)], range(n))


def test_without_noise_it_acts_as_in_an_evaluation():
    group = drawn(AgentBehaviour(agent(), [COMMANDS[0]]), 1)
    cell = evaluate_agent(agent(), [lander()], COMMANDS[0], n_episodes=1)
    episode = cell.episodes[0].episode
    group.policy.begin(episode.states[:1])
    for t in range(episode.length):
        acted = group.policy.act(episode.states[t : t + 1], np.array([0]))
        np.testing.assert_allclose(acted[0], episode.actions[t], atol=1e-4)
        group.policy.observe(episode.rewards[t : t + 1], np.array([0]))


def test_every_command_is_drawn_as_often_and_reaches_the_agent():
    class Echo(UDRLAgent):
        """Its action is the command."""

        def sample(self, state, command, deterministic=False):
            return command

    group = drawn(AgentBehaviour(Echo(8, 2), COMMANDS), 3000)
    group.policy.begin(np.zeros((3000, 8), np.float32))
    asked = group.policy.act(np.zeros((3000, 8), np.float32), np.arange(3000))
    counts = [int((asked == command).all(axis=1).sum()) for command in COMMANDS]
    assert sum(counts) == 3000
    assert np.abs(np.array(counts) / 1000 - 1).max() < 0.12  # more than four deviations
    rows = np.arange(0, 3000, 7)
    group.policy.observe(np.full(len(rows), 2.0), rows)
    left = group.policy.act(np.zeros((len(rows), 8), np.float32), rows)
    np.testing.assert_array_equal(left, asked[rows] - [1, 2])


def test_an_episodes_request_is_the_command_that_its_agent_got():
    """Known by the actions: of two episodes with one start and other commands, they differ."""
    behaviour = AgentBehaviour(agent(), COMMANDS)
    group = drawn(behaviour, 40)
    assert set(group.requests) == set(COMMANDS)
    for request in set(group.requests):
        rows = [row for row, other in enumerate(group.requests) if other == request]
        alone = drawn(AgentBehaviour(agent(), [request]), 40)
        for either in (group, alone):
            either.policy.begin(np.zeros((40, 8), np.float32))
        acted = [
            either.policy.act(np.zeros((40, 8), np.float32), np.arange(40))[rows]
            for either in (group, alone)
        ]
        np.testing.assert_array_equal(*acted)


def test_a_collection_keeps_the_requests(tmp_path):
    dataset = DataCollector(lander(), behaviour=AgentBehaviour(agent(), COMMANDS)).collect(12)
    episodes = collect(AgentBehaviour(agent(), COMMANDS), 5, range(12), seed=0)
    assert dataset.requests.tolist() == [list(episode.request) for episode in episodes]
    assert {episode.request for episode in episodes} == set(COMMANDS)
    dataset.save(tmp_path / "data.npz")
    np.testing.assert_array_equal(
        TrajectoryDataset(tmp_path / "data.npz").requests, dataset.requests
    )


def test_noise_is_gaussian_about_the_agent():
    quiet, noisy = (
        drawn(AgentBehaviour(agent(), [(50, 0)], noise=noise), 2000) for noise in (0.0, 0.3)
    )
    states, rows = np.zeros((2000, 8), np.float32), np.arange(2000)
    for group in (quiet, noisy):
        group.policy.begin(states)
    noise = noisy.policy.act(states, rows) - quiet.policy.act(states, rows)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    assert set(noisy.levels) == {0.3} and set(noisy.behaviours) == {"agent"}


def test_a_collector_takes_it_and_says_who_acted(tmp_path):
    behaviour = AgentBehaviour(agent(), COMMANDS, noise=0.1)
    assert isinstance(behaviour, GroupBehaviour) and as_behaviour(behaviour) is behaviour
    collector = DataCollector(lander(), behaviour=behaviour)
    dataset = collector.collect(3)
    collector.save(tmp_path / "data.npz")
    said = dataset.metadata["behaviour"]
    assert said["commands"] == [list(map(float, command)) for command in COMMANDS]
    assert (said["shield"], said["noise"]) == (None, 0.1)
    assert set(dataset.behaviours.tolist()) == {"agent"} and set(dataset.levels.tolist()) == {0.1}


def test_the_description_tells_agents_and_shields_apart(shield):
    described = [
        AgentBehaviour(agent(seed), COMMANDS, shield=held).describe()
        for seed, held in ((0, None), (0, None), (1, None), (0, shield))
    ]
    assert described[0] == described[1] == json.loads(json.dumps(described[0]))
    assert described[0]["agent"] != described[2]["agent"]
    assert described[3]["shield"]["type"] == "quantile"


def test_it_keeps_a_copy_of_the_agent():
    acting = agent()
    behaviour = AgentBehaviour(acting, COMMANDS)
    before = behaviour.describe()
    with torch.no_grad():
        acting.network.first.weight.zero_()
    assert behaviour.describe() == before


@pytest.mark.parametrize(
    ("commands", "noise", "error", "message"),
    [
        ([], 0.0, ShapeError, r"commands \[m, 2\]"),
        (np.zeros((0, 2)), 0.0, DataError, "at least one command"),
        ((50, 250), 0.0, ShapeError, r"commands \[m, 2\]"),
        ([(0, 250)], 0.0, DataError, "horizon of at least 1"),
        ([(5, math.nan)], 0.0, DataError, "finite return"),
        (COMMANDS, -0.1, ConfigError, "noise >= 0"),
        (COMMANDS, math.nan, ConfigError, "noise >= 0"),
    ],
)
def test_what_cannot_be_asked(commands, noise, error, message):
    with pytest.raises(error, match=message):
        AgentBehaviour(agent(), commands, noise=noise)


def test_an_uncalibrated_shield_is_refused():
    with pytest.raises(NotCalibratedError, match="calibrate"):
        AgentBehaviour(agent(), COMMANDS, QuantileShield(8))


def test_an_agent_for_another_environment():
    env = make_env("Pendulum-v1", max_episode_steps=5)
    with pytest.raises(ShapeError, match=r"state: expected shape \[batch, 8\]"):
        DataCollector(env, behaviour=AgentBehaviour(agent(), COMMANDS)).collect(1)
