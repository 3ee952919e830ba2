"""The Ray that a command starts for itself."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

PROGRAM = """
import ray
from flowshield.distributed.session import session

@ray.remote
def ask():
    from ray._raylet import AuthenticationMode, get_authentication_mode
    return get_authentication_mode() == AuthenticationMode.TOKEN

with session():
    print(ray.get(ask.remote()))
assert not ray.is_initialized()
"""


def test_a_ray_of_ones_own_demands_a_token_that_lies_nowhere(tmp_path):
    quiet = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment = {**quiet, "HOME": str(tmp_path)}
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["True"], done.stderr
    assert done.stderr == ""
    assert not (tmp_path / ".ray").exists()
