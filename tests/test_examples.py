"""The examples, as their users run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny import TINY

ROOT = Path(__file__).parents[1]


def run_example(name, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_an_environment_of_ones_own_goes_through_the_pipeline(tmp_path):
    source = (ROOT / "examples" / "own_environment.py").read_text()
    code = [line for line in source.splitlines() if line and not line.startswith(('"""', "#"))]
    assert len(code) < 30
    assert source in (ROOT / "docs" / "guides" / "own_environment.md").read_text()

    tiny = [word for word in TINY if not word.startswith("env.")]
    settings = [*tiny, "data.n_episodes=100", "ray.num_workers=0", "shield=mixture"]
    run_example("own_environment.py", "run_dir=run", *settings, cwd=tmp_path)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    asked = {(cell["shield"], *cell["command"]) for cell in results["cells"]}
    assert asked == {(s, *c) for s in ("none", "mixture") for c in [(40, -10), (5, 0), (200, 50)]}
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_a_shield_of_ones_own_goes_through_the_pipeline(tmp_path):
    source = (ROOT / "examples" / "own_shield.py").read_text()
    assert source in (ROOT / "docs" / "guides" / "own_shield.md").read_text()
    given = [*TINY, "ray.num_workers=0", "shield=gaussian", "shield.gaussian.hidden_dim=16"]
    run_example("own_shield.py", "run_dir=run", *given, cwd=tmp_path)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {cell["shield"] for cell in results["cells"]} == {"none", "gaussian"}
    assert results["shields"]["gaussian"]["detection"]["auc_roc"] > 0.5
