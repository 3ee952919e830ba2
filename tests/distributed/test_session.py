"""The Ray that a command starts for itself."""

import os
import re
import subprocess
import sys

import pytest
from patience import PATIENCE_S

from flowshield.distributed.session import _temporary_files

pytestmark = pytest.mark.ray

PROGRAM = """
import ray
from flowshield.distributed.session import session

@ray.remote
def ask():
    from ray._raylet import AuthenticationMode, get_authentication_mode
    return get_authentication_mode() == AuthenticationMode.TOKEN

with session():
    from ray._private.worker import get_dashboard_url
    print(ray.get(ask.remote()), get_dashboard_url().partition(":")[0])
assert not ray.is_initialized()
"""


def test_a_ray_of_ones_own_demands_a_token_that_lies_nowhere(tmp_path):
    quiet = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment = {**quiet, "HOME": str(tmp_path)}
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        program, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout.split() == ["True", "127.0.0.1"], done.stderr
    assert done.stderr == ""
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("RAY_TMPDIR", "/dev/null", "Ray does not start on this machine: .*; ray.num_workers=0"),
        ("RAY_ADDRESS", "nonsense://", "Ray cannot be reached at RAY_ADDRESS=nonsense://: .*unset"),
    ],
)
def test_a_ray_that_is_not_there_is_one_line(tmp_path, variable, value, told):
    words = ["collect", "env=gridworld", "behaviour=random", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "flowshield", *words],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(f"flowshield: {told}.*", line)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_rays_own_files_go_below_the_home_folder(tmp_path, monkeypatch, variable):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/ray")
    with _temporary_files(tmp_path / "ours"):
        assert os.environ["RAY_TMPDIR"] == str(tmp_path / "ray")
    assert os.environ[variable] == "~/ray"
