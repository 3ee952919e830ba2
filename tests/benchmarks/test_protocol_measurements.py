"""Single measurements of the benchmark of achievability, where what must come out is known."""

import importlib

import numpy as np
import pytest
import torch

from flowshield.evaluation.contrast import impossible_commands
from flowshield.models import BaseShield


def fitted(name, data, **arguments):
    torch.manual_seed(0)
    shield = BaseShield.of_type(name)(data.state_dim, **arguments)
    shield.fit_standardizers(torch.as_tensor(data.states), torch.as_tensor(data.commands))
    shield.eval().calibrate(data, alpha=0.3, seed=3)
    return shield


@pytest.fixture(scope="module")
def flow(landings):
    return fitted("flow_matching", landings)


class Narrow(BaseShield):
    """A Gaussian that is far narrower than the data, the same at every state."""

    center, width = torch.tensor([120.3, 201.7]), torch.tensor([0.4, 0.4])

    def compute_loss(self, state, command):
        return -self.log_prob(state, command).mean()

    def log_prob(self, state, command, n_steps=None):
        return -(((command - self.center) / self.width) ** 2).sum(dim=1) / 2

    def sample_with_log_prob(self, state, n_samples, generator=None):
        noise = torch.randn(len(state), n_samples, 2, generator=generator)
        return self.center + self.width * noise, -(noise**2).sum(dim=2) / 2


def test_timing_the_compiled_path_leaves_the_shared_shield_alone(benchmark, flow):
    latency = importlib.import_module("protocol.latency")
    compiled = latency._compiled(flow)
    assert flow.compiled and set(flow.compiled) <= set(vars(compiled))
    assert not set(flow.compiled) & set(vars(flow))


def test_density_errors_are_told_where_verdicts_hang_on_them(benchmark, landings, flow):
    latency = importlib.import_module("protocol.latency")
    steps = torch.arange(0, 60)
    states = torch.as_tensor(landings.states[steps])
    true = torch.as_tensor(landings.commands[steps])
    impossible = torch.as_tensor(impossible_commands(landings, steps.numpy(), 20.0))
    found = latency._density_errors(flow, states, true, impossible, 40)
    assert set(found) == {"density_error", "density_error_impossible", "density_error_near"}
    scores = torch.cat([flow.score(states, true), flow.score(states, impossible)])
    near = int(((scores - flow.limits(states[:1])).abs() <= 2.0).sum())
    assert found["density_error"]["n"] == 40
    assert (found["density_error_near"] or {"n": 0})["n"] == min(near, 40)
    for error in filter(None, found.values()):
        assert abs(error["signed_mean"]) <= error["largest"]
        assert 0 <= error["median"] <= error["p95"] <= error["largest"]
    assert latency._density_errors(fitted("quantile", landings), states, true, impossible, 40) == {
        "density_error": None
    }


def test_the_threshold_of_detection_is_the_shields_own(benchmark, landings):
    contenders = importlib.import_module("protocol.contenders")
    shield = fitted("mixture", landings)
    found = contenders.threshold(contenders._of_shield(shield), landings, 0.3, 3)
    assert found == pytest.approx(shield.calibration.thresholds[0], abs=1e-4)


def test_brute_force_finds_support_between_the_points_of_a_grid_over_all_data(benchmark, landings):
    """The nearest point of a level set of a Gaussian that no point of the data's grid hits."""
    search = importlib.import_module("protocol.search")
    shield = Narrow(landings.state_dim)
    shield.fit_standardizers(torch.as_tensor(landings.states), torch.as_tensor(landings.commands))
    shield.projection = shield.projection._replace(horizon_weight=1.0)
    state = torch.as_tensor(landings.states[:1])
    request = Narrow.center + torch.tensor([[0.0, 50.0]])
    least = -0.5  # within one deviation
    exact = float((50.0 - Narrow.width[1]) / shield.command_standardizer.std[1])
    everything = (torch.tensor([1.0, -500.0]), torch.tensor([1000.0, 320.0]))
    missed = search.nearest_on_grid(shield, state, request, least, [everything])
    assert missed == float("inf")
    answer = Narrow.center.unsqueeze(0)
    boxes = search.boxes_around(shield, state, request, answer, everything)
    found = search.nearest_on_grid(shield, state, request, least, boxes)
    assert found == pytest.approx(exact, rel=0.005)


def test_a_projection_is_not_credited_where_brute_force_did_worse(benchmark):
    projection = importlib.import_module("protocol.projection")
    found = projection._compare(np.array([0.5, 1.2]), np.array([1.0, 1.0]))
    assert found["ratio"] == pytest.approx(0.85)
    assert found["ratio_floored"] == pytest.approx(1.1)
    assert (found["beaten"], found["within_5_percent"]) == (0.5, 0.5)
