"""The agent that chooses one of several actions."""

import pytest
import torch

from flowshield.errors import ConfigError, DataError, FileFormatError, ShapeError
from flowshield.models import UDRLAgent
from flowshield.models.serialization import load_payload, save_payload


def agent(n_actions=5):
    torch.manual_seed(0)
    made = UDRLAgent(3, 1, hidden_dim=16, n_layers=2, n_actions=n_actions)
    with torch.no_grad():
        made.network.last.weight.mul_(5)
    return made.eval()


def batch(n=64, n_actions=5):
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(n, 3, generator=generator)
    command = torch.stack([torch.arange(n) % 30 + 1.0, 10 * state[:, 0]], dim=1)
    return state, command, torch.randint(n_actions, (n, 1), generator=generator)


def test_probabilities_sum_to_one_and_log_prob_is_theirs():
    made = agent().double()
    state, command, action = batch()
    state, command = state.double(), command.double()
    log_probs = made(state, command)
    assert log_probs.shape == (64, 5)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(64, dtype=torch.float64))
    each = [made.log_prob(state, command, torch.full((64, 1), a)) for a in range(5)]
    torch.testing.assert_close(torch.stack(each, dim=1), log_probs)
    expected = torch.distributions.Categorical(logits=log_probs).log_prob(action[:, 0])
    torch.testing.assert_close(made.log_prob(state, command, action), expected)


def test_the_loss_is_torchs_cross_entropy():
    made = agent()
    state, command, action = batch()
    expected = torch.nn.functional.cross_entropy(made(state, command), action[:, 0])
    torch.testing.assert_close(made.compute_loss(state, action, command), expected)
    torch.testing.assert_close(made.validation_loss(state, action, command), expected)


def test_deterministic_is_the_likeliest_and_draws_are_as_likely_as_said():
    made = agent()
    state, command, _ = batch(1)
    log_probs = made(state, command)
    chosen = made.sample(state, command, deterministic=True)
    assert chosen.dtype == torch.int64 and chosen.tolist() == [[int(log_probs.argmax())]]
    many = (state.expand(40_000, 3), command.expand(40_000, 2))
    drawn = made.sample(*many, generator=torch.Generator().manual_seed(3))
    assert drawn.shape == (40_000, 1) and drawn.dtype == torch.int64
    shares = torch.bincount(drawn[:, 0], minlength=5) / 40_000
    torch.testing.assert_close(shares, log_probs.exp()[0], rtol=0, atol=0.01)
    again = made.sample(*many, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again)


def test_the_number_of_actions_is_saved_with_the_weights(tmp_path):
    made = agent()
    made.save(tmp_path / "agent.pt")
    loaded = UDRLAgent.load(tmp_path / "agent.pt")
    assert loaded.n_actions == 5 and loaded.hyperparameters == made.hyperparameters
    state, command, action = batch()
    assert torch.equal(loaded(state, command), made(state, command))
    assert "n_actions" not in UDRLAgent(3, 2).hyperparameters  # their files stay what they were

    payload = load_payload(tmp_path / "agent.pt", "agent")
    payload["hyperparameters"]["n_actions"] = 6
    save_payload(tmp_path / "other.pt", "agent", payload)
    with pytest.raises(FileFormatError, match="other.pt"):
        UDRLAgent.load(tmp_path / "other.pt")


def test_what_does_not_fit_is_refused():
    made = agent()
    state, command, action = batch()
    with pytest.raises(DataError, match=r"one of 5 actions: expected int64.*got torch.float32"):
        made.compute_loss(state, action.float(), command)
    with pytest.raises(ShapeError, match=r"action: expected shape \[batch, 1\], got \[64, 2\]"):
        made.compute_loss(state, action.expand(64, 2), command)
    with pytest.raises(ConfigError, match="action_dim=1, got n_actions=5 and action_dim=2"):
        UDRLAgent(3, 2, n_actions=5)
