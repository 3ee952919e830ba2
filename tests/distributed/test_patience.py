"""A machine on which Python programs start slowly: Ray starts all the same."""

import os
import socket
import subprocess
import sys

import pytest
from patience import PATIENCE_S

from flowshield.distributed.patience import _free_ports

# Read by each Python program before its first line. A raylet waits 15 s for its agents.
SLOW_AGENTS = """
import sys
import time

if any(part.endswith(("dashboard/agent.py", "agent/main.py")) for part in sys.orig_argv):
    time.sleep(20)
"""

PROGRAM = """
import ray
from flowshield.distributed.session import session

with session():
    print(ray.get(ray.remote(lambda: "answered").remote()))
"""


@pytest.mark.ray
def test_a_ray_whose_agents_start_slowly_starts_and_works(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENTS)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout == "answered\n", done.stderr


def test_a_port_on_which_somebody_listens_is_not_given_to_ray():
    first = list(_free_ports(4))
    assert len(set(first)) == 4
    with socket.create_server(("", first[1])):
        second = list(_free_ports(4))
    assert len(second) == 4 and first[1] not in second
