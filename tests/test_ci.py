"""`.ci/run` types the README's command in a shell that has nothing of ours."""

import os
import subprocess

import pytest
from pages import ROOT

SCRIPT = ROOT / ".ci" / "run"
# In the place of `python -m venv FOLDER`: an environment whose programs write down what they see
STUB = """#!/usr/bin/env bash
mkdir -p "$3/bin"
echo "export PATH=$3/bin:\\$PATH VIRTUAL_ENV=$3" > "$3/bin/activate"
for program in pip pytest ruff mypy; do
  printf '#!/usr/bin/env bash\\nenv > "%s/%s"\\n' {seen} $program > "$3/bin/$program"
  chmod +x "$3/bin/$program"
done
"""
OURS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": "/somewhere",
    "PYTEST_ADDOPTS": "-k nothing",
    "RAY_ADDRESS": "127.0.0.1:1",
    "FLOWSHIELD_PLUGINS": "own",
    "MPLBACKEND": "agg",
}


@pytest.mark.skipif(not SCRIPT.exists(), reason="only a clone holds it")
def test_the_suite_gets_no_variable_that_a_newcomer_does_not_have(tmp_path):
    stub, seen = tmp_path / "python", tmp_path / "seen"
    seen.mkdir()
    stub.write_text(STUB.replace("{seen}", str(seen)))
    stub.chmod(0o755)
    environment = {**os.environ, **OURS, "PIP_NO_COLOR": "1", "PYTHON": str(stub)}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in seen.iterdir()} == {"pip", "pytest", "ruff", "mypy"}
    for path in seen.iterdir():
        names = {line.partition("=")[0] for line in path.read_text().splitlines()}
        assert names.isdisjoint(OURS), path.name
        assert {"HOME", "PATH", "PIP_NO_COLOR", "VIRTUAL_ENV"} <= names
