"""Peers of the benchmark: densities that integrate to 1 and learn a known one."""

import importlib
import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
needs_zuko = pytest.mark.skipif(
    importlib.util.find_spec("zuko") is None, reason="zuko comes with the extra bench"
)
PEERS = ["mixture_network", pytest.param("zuko_spline_flow", marks=needs_zuko)]


@pytest.fixture(scope="module")
def peers():
    sys.path.insert(0, str(BENCHMARKS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("peers")
    torch.set_num_threads(threads)
    sys.path.remove(str(BENCHMARKS))


def chain(n, seed):
    """States and what follows: H = 20 + 10 s + 5 z_1, whole, and R = 3 H + 20 z_2."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (n, 3)).astype(np.float32)
    horizon = np.round(20 + 10 * states[:, 0] + 5 * rng.standard_normal(n))
    ret = 3 * horizon + 20 * rng.standard_normal(n)
    return states, np.stack([horizon, ret], axis=1)


def exact_nll():
    """Of the dequantised command, up to the rounding of H: two Gaussians' entropies."""
    half = 0.5 * math.log(2 * math.pi * math.e)
    return 2 * half + math.log(5) + 0.5 * math.log(20**2 + 1)


@pytest.mark.parametrize("name", PEERS)
def test_it_learns_a_known_density_and_keeps_the_best_weights(peers, name):
    torch.manual_seed(0)
    peer = peers.PEERS[name](3)
    history = peer.fit(*chain(20_000, 1), *chain(4000, 2), seed=3, budget=4.0)
    states, commands = chain(8000, 4)
    rng = np.random.default_rng(5)
    commands[:, 0] += rng.uniform(-0.5, 0.5, len(commands))
    commands[:, 1] += rng.standard_normal(len(commands))
    found = -float(peer.log_prob(states, commands).mean())
    assert found == pytest.approx(exact_nll(), abs=0.1)
    best = min(record["validation_loss"] for record in history)
    assert best <= history[-1]["validation_loss"] and best == pytest.approx(found, abs=0.1)


@pytest.mark.parametrize("name", PEERS)
def test_it_integrates_to_1_in_raw_units(peers, name):
    torch.manual_seed(0)
    peer = peers.PEERS[name](3)
    peer.fit(*chain(2000, 1), *chain(500, 2), budget=0.2)
    horizon, ret = np.arange(-60, 100, 0.5), np.arange(-350, 500, 3.0)
    grid = np.stack(np.meshgrid(horizon, ret), axis=-1).reshape(-1, 2)
    density = np.exp(peer.log_prob(np.full((len(grid), 3), 0.3), grid))
    assert density.sum() * 1.5 == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", PEERS)
def test_what_it_learnt_is_in_its_state_dict(peers, name):
    peer = peers.PEERS[name](3)
    peer.fit(*chain(2000, 1), *chain(500, 2), budget=0.1)
    other = peers.PEERS[name](3)
    other.load_state_dict(peer.state_dict())
    np.testing.assert_array_equal(other.log_prob(*chain(50, 6)), peer.log_prob(*chain(50, 6)))


def test_a_dimension_that_never_varies_is_not_scaled(peers):
    states, commands = chain(500, 1)
    states[:, 1] = 4.0
    peer = peers.PEERS["mixture_network"](3)
    peer.fit(states, commands, states, commands, budget=0.05)
    assert np.isfinite(peer.log_prob(states, commands)).all()


def test_only_what_is_installed_is_named(peers, monkeypatch):
    assert set(peers.peers_here()) <= set(peers.PEERS)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _: None)
    assert peers.peers_here() == ("mixture_network",)
