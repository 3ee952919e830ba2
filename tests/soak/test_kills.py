"""The short version of the soak; the long one's figures are in docs/results/kills.md."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kills.py")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills and counts in Linux's way")
def test_killed_commands_end_as_unbroken_ones(tmp_path):
    """In a process of its own, which takes in every orphan."""
    page = tmp_path / "kills.md"
    asked = ["--stage", "collect:4", "train_at_address:3", "certify:2", "--seed", "1"]
    command = [sys.executable, SCRIPT, *asked, "--out", page]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 times SIGKILL to a whole process group, 0 things wrong" in page.read_text()
