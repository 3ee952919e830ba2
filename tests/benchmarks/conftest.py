"""The benchmark of achievability as a module, and a few episodes."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from flowshield.config import compose
from flowshield.data import DataCollector
from flowshield.envs import make_env

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield importlib.import_module("achievability")
    torch.set_num_threads(threads)
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="session")
def landings():
    """Six episodes of the LunarLander's controller."""
    config = compose("run", ["behaviour=expert"])
    behaviour = OmegaConf.to_container(config.behaviour)
    return DataCollector(make_env("lunarlander"), behaviour=behaviour).collect(6, seed=5)
