"""The compiled path of every shield: the same numbers, and only its own weights."""

import copy
import pickle

import pytest
import torch

from flowshield.models import DiffusionShield, FlowMatchingShield, MixtureShield, QuantileShield

SHIELDS = [QuantileShield, MixtureShield, DiffusionShield, FlowMatchingShield]
STATE, COMMAND = torch.randn(3, 2), torch.randn(3, 2)


class Captured:
    """Runs what was captured as it is, and counts the captures: no C++ compiler in a test."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


def random(make, seed=0):
    torch.manual_seed(seed)
    shield = make(2, hidden_dim=8, n_layers=1).eval()
    for parameter in shield.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return shield


@pytest.mark.parametrize("make", SHIELDS)
def test_the_numbers_are_the_same_and_the_density_is_compiled(make):
    shield, backend = random(make), Captured()
    plain = shield.score(STATE, COMMAND), shield.common_samples(STATE, 5)[0]
    shield.compile(backend=backend)
    torch.testing.assert_close(shield.score(STATE, COMMAND), plain[0])
    assert backend.count >= 1
    torch.testing.assert_close(shield.common_samples(STATE, 5)[0], plain[1])


@pytest.mark.parametrize("make", SHIELDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_of_a_compiled_shield_answers_with_its_own_weights(make, copied):
    shield, other = random(make), random(make, seed=1)
    expected, others = (s.log_prob(STATE, COMMAND).detach() for s in (shield, other))
    assert not torch.allclose(expected, others)
    shield.compile(backend=Captured())
    shield.log_prob(STATE, COMMAND)
    copy_of_it = copied(shield)
    copy_of_it.load_state_dict(other.state_dict())
    torch.testing.assert_close(copy_of_it.log_prob(STATE, COMMAND).detach(), others)
    torch.testing.assert_close(copy_of_it.common_samples(STATE, 4), other.common_samples(STATE, 4))
    torch.testing.assert_close(shield.log_prob(STATE, COMMAND).detach(), expected)
    doubled = copied(shield).double()
    assert doubled.log_prob(STATE.double(), COMMAND.double()).dtype == torch.float64


def test_compiling_again_takes_the_place_of_the_first():
    shield, first, second = random(MixtureShield), Captured(), Captured()
    shield.compile(backend=first)
    shield.compile(backend=second)
    shield.score(STATE, COMMAND)
    assert first.count == 0 and second.count >= 1
