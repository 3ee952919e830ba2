import numpy as np
import pytest
import torch

from flowshield.models import BaseShield, CommandedPolicy, UDRLAgent
from flowshield.models.shields import Calibration, StateGroups


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
    from flowshield.errors import DataError
    from flowshield.models import CommandedPolicy, UDRLAgent

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
    from flowshield.errors import DataError, ShapeError

    with pytest.raises(ShapeError, match="each of 3 episodes, got 2"):
        begun(np.ones((2, 2)), n=3)
    with pytest.raises(ShapeError, match=r"\[2\], or one per episode"):
        begun(np.ones((2, 3)))
    with pytest.raises(DataError, match=r"got \(0.0, 4.0\)"):
        begun(np.array([[2.0, 3.0], [0.0, 4.0]]), n=2)
