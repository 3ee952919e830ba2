"""A user's screen while commands work on a Ray of their own: no line there that is not ours."""

import os
import signal
import subprocess
import time

import ctrl_c
import pytest
from patience import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = [
    "env=geometric_chain", "shield=[quantile]", "data.n_episodes=150", "n_epochs=1",
    "shield_epochs=1", "evaluation.n_episodes=8", "evaluation.n_states=40",
    "evaluation.followed.n_starts=2", "evaluation.explorer.n_episodes=0",
    "probe.n_episodes=76", "probe.n_steps=20", "certificate.n_episodes=5",
    "certificate.epsilon=0.5", "certificate.delta=0.5",
]  # fmt: skip
LONG = ["n_epochs=9999", "shield_epochs=9999", "early_stopping.patience=9999"]


def start(*words):
    """Types a command as a notebook's subprocess would have it."""
    return subprocess.Popen(
        [*ctrl_c.COMMAND, *words],
        env={**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C goes to a group of processes, and not to this one
    )


@pytest.mark.parametrize("command", ["run", "tune"])
def test_standard_error_stays_empty(command, tmp_path):
    process = start(command, *SMALL, f"run_dir={tmp_path / 'here'}")
    out, error = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, error) == (0, "")
    named = {line.partition(" ")[0] for line in out.splitlines() if line and line[0] != " "}
    expected = {
        "run": {"run", "collect", "train", "probe", "certify", "evaluate"}
        | {"Mean", "Impossible", "false"}
    }
    assert named <= expected.get(command, {"tune", "collect", "Trials"}), out


def test_ctrl_c_leaves_one_line(tmp_path):
    folder = tmp_path / "here"
    process = start("train", *SMALL, *LONG, f"run_dir={folder}")
    deadline = time.monotonic() + PATIENCE_S
    begun = folder / "checkpoints" / "agent"
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert error == f"flowshield: interrupted; to go on: flowshield train run_dir={folder}\n"
