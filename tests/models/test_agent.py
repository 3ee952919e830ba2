import math

import pytest
import torch

from flowshield.errors import ConfigError, ShapeError
from flowshield.models import UDRLAgent

LOW, HIGH = [-1.0, 0.0, -0.2], [1.0, 0.5, 0.2]


def agent(**options):
    torch.manual_seed(0)
    made = UDRLAgent(4, 3, hidden_dim=16, n_layers=2, action_low=LOW, action_high=HIGH, **options)
    with torch.no_grad():
        made.network.last.weight.mul_(5)  # far enough that the bounds are met
    states, commands, _ = batch(500)
    made.fit_standardizers(states, commands)
    return made.eval()


def batch(n=64):
    torch.manual_seed(1)
    state = torch.randn(n, 4) * torch.tensor([1.0, 10.0, 0.1, 5.0]) + 2
    command = torch.stack([torch.randint(1, 300, (n,)).float(), 100 * torch.randn(n)], dim=1)
    return state, command, torch.rand(n, 3) - 0.5


def test_log_prob_is_that_of_torchs_normal():
    made = agent().double()
    state, command, action = (part.double() for part in batch())
    mean, log_std = made(state, command)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(dim=1)
    torch.testing.assert_close(made.log_prob(state, command, action), expected)
    torch.testing.assert_close(made.compute_loss(state, action, command), -expected.mean())
    torch.testing.assert_close(made.validation_loss(state, action, command), -expected.mean())


def test_the_deviation_stays_in_its_range_and_keeps_a_gradient():
    made = agent()
    state, command, _ = batch()
    with torch.no_grad():
        made.network.last.weight.mul_(100)
    log_std = made(state, command)[1] - made.action_scale.log()
    assert bool((log_std >= -2.5 - 1e-6).all()) and bool((log_std <= 1.0 + 1e-6).all())
    assert float(log_std.detach().std()) > 0.1


def test_samples_stay_inside_each_actions_bounds():
    made = agent()
    state, command, _ = batch(2000)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    for deterministic in (True, False):
        action = made.sample(state, command, deterministic)
        assert action.shape == (2000, 3)
        assert bool((action >= low).all()) and bool((action <= high).all())
        assert bool((action == low).any(0).all()) and bool((action == high).any(0).all())


def test_deterministic_is_the_clipped_mean():
    made = agent()
    state, command, _ = batch()
    expected = made(state, command)[0].clamp(torch.tensor(LOW), torch.tensor(HIGH))
    assert torch.equal(made.sample(state, command, deterministic=True), expected)


def test_random_actions_have_the_stated_mean_and_deviation():
    made = UDRLAgent(4, 3, hidden_dim=16, action_low=-math.inf, action_high=math.inf)
    state, command, _ = batch(1)
    mean, log_std = made(state, command)
    torch.manual_seed(0)
    actions = made.sample(state.expand(40_000, 4), command.expand(40_000, 2))
    z = (actions - mean) / log_std.exp()
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=0.02)
    torch.testing.assert_close(z.std(0), torch.ones(3), rtol=0, atol=0.02)


def test_the_units_of_the_inputs_do_not_matter():
    made = agent()
    state, command, _ = batch()
    other = agent()
    scale, unit = torch.tensor([8.0, 0.25, 64.0, 1.0]), torch.tensor([2.0, 1 / 32])
    states, commands, _ = batch(500)
    other.fit_standardizers(states * scale, commands * unit)
    torch.testing.assert_close(other(state * scale, command * unit), made(state, command))


def learnt(unit, **bounds):
    """An agent after some steps on actions that follow the state, all actions times `unit`."""
    torch.manual_seed(0)
    made = UDRLAgent(1, 1, hidden_dim=16, n_layers=2, **bounds)
    state = torch.randn(1000, 1)
    action = unit * (0.6 * state + 0.05 * torch.randn(1000, 1)).clamp(-1, 1)
    command = torch.stack([torch.ones(1000), torch.zeros(1000)], dim=1)
    made.fit_standardizers(state, command, action)
    adam = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(150):
        adam.zero_grad()
        made.compute_loss(state, action, command).backward()
        adam.step()
    return made.eval(), state, command, action


@pytest.mark.parametrize("exponent", [-40, -20, -4, 3, 20])
@pytest.mark.parametrize("bounded", [True, False])
def test_the_unit_of_actions_does_not_matter(exponent, bounded):
    unit = 2.0**exponent  # powers of two lose no digits
    ends = [1.0, unit] if bounded else [math.inf, math.inf]
    one, state, command, action = learnt(1.0, action_low=-ends[0], action_high=ends[0])
    other, *_ = learnt(unit, action_low=-ends[1], action_high=ends[1])
    noise = [torch.Generator().manual_seed(5) for _ in range(2)]
    drawn = one.sample(state, command, generator=noise[0])
    scaled = other.sample(state, command, generator=noise[1])
    torch.testing.assert_close(scaled, drawn * unit, rtol=1e-3, atol=1e-3 * unit)
    expected = one.log_prob(state, command, action) - math.log(unit)
    torch.testing.assert_close(
        other.log_prob(state, command, action * unit), expected, rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize(
    ("unit", "bound"),
    [(0.1, 0.1), (1e-6, 1e-6), (1e5, 1e5), (1e-3, 1.0), (1.0, 1e9), (0.01, math.inf)],
)
def test_drawn_actions_explain_small_actions_too(unit, bound):
    made, state, command, action = learnt(unit, action_low=-bound, action_high=bound)
    error = (made.sample(state, command) - action).var() / action.var()
    assert float(error) < 0.1


def test_actions_that_never_vary_keep_the_unit_of_their_bounds():
    made = UDRLAgent(1, 2, action_low=[-2.0, -1.0], action_high=[2.0, math.inf])
    made.fit_standardizers(torch.randn(9, 1), torch.randn(9, 2), torch.ones(9, 2))
    assert made.action_scale.tolist() == [2.0, 1.0] and made.action_center.tolist() == [0.0, 1.0]


def test_both_state_and_command_are_obeyed():
    made = agent()
    state, command, _ = batch()
    mean = made(state, command)[0]
    assert bool((mean != made(state, command + torch.tensor([0.0, 50.0]))[0]).any(1).all())
    assert bool((mean != made(state, command + torch.tensor([50.0, 0.0]))[0]).any(1).all())
    assert bool((mean != made(state + 1, command)[0]).any(1).all())


def test_a_few_steps_learn_which_action_brought_which_return():
    torch.manual_seed(0)
    made = UDRLAgent(1, 1, hidden_dim=32, n_layers=2)
    action = 1.6 * torch.rand(4000, 1) - 0.8
    state = torch.randn(4000, 1)
    command = torch.cat([torch.full((4000, 1), 10.0), 300 * action], dim=1)
    made.fit_standardizers(state, command)
    adam = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(200):
        adam.zero_grad()
        made.compute_loss(state, action, command).backward()
        adam.step()
    asked = torch.tensor([[10.0, -150.0], [10.0, 60.0], [10.0, 210.0]])
    done = made.sample(torch.zeros(3, 1), asked, deterministic=True)
    torch.testing.assert_close(done[:, 0], torch.tensor([-0.5, 0.2, 0.7]), rtol=0, atol=0.1)


def test_saved_and_loaded_it_is_the_same_to_the_last_bit(tmp_path):
    made = agent(activation="tanh")
    made.save(tmp_path / "agent.pt")
    loaded = UDRLAgent.load(tmp_path / "agent.pt")
    assert loaded.hyperparameters == made.hyperparameters and not loaded.training
    assert loaded.state_dict().keys() == made.state_dict().keys()
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    state, command, action = batch()
    assert torch.equal(
        loaded.sample(state, command, deterministic=True),
        made.sample(state, command, deterministic=True),
    )
    assert torch.equal(
        loaded.log_prob(state, command, action), made.log_prob(state, command, action)
    )


def test_wrong_shapes_are_refused_with_a_way_out():
    made = agent()
    state, command, action = batch(5)
    with pytest.raises(ShapeError, match=r"state: expected shape \[batch, 4\], got \[4\].*unsqu"):
        made(state[0], command)
    with pytest.raises(ShapeError, match=r"command: expected shape \[batch, 2\], got \[5, 1\]"):
        made.sample(state, command[:, :1])
    with pytest.raises(ShapeError, match="command: expected 5 rows like the other, got 1"):
        made(state, command[:1])
    with pytest.raises(ShapeError, match=r"action: expected shape \[batch, 3\], got \[5, 2\]"):
        made.log_prob(state, command, action[:, :2])
    with pytest.raises(ShapeError, match="action: expected 5 rows like the other, got 2"):
        made.log_prob(state, command, action[:2])


def test_an_unknown_activation_is_refused():
    with pytest.raises(ConfigError, match="unknown activation 'swish'"):
        UDRLAgent(1, 1, activation="swish")


def test_default_bounds_are_minus_1_and_1():
    made = UDRLAgent(2, 2)
    assert made.action_low.tolist() == [-1, -1] and made.action_high.tolist() == [1, 1]
    assert math.isclose(float(made.state_standardizer.std[0]), 1.0)
