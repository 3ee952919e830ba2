import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from flowshield.config import config_dir

ROOT = Path(__file__).parents[1]


def test_constraints_are_exact_and_hold_no_addresses():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = [re.match(r"[A-Za-z0-9._-]+", requirement).group().lower() for requirement in needed]
    assert {"torch", "pytest", "wandb"} <= set(names)
    pins = (ROOT / "constraints.txt").read_text()
    assert [name for name in names if f"\n{name}==" not in pins] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-q", "-w", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("flowshield-*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_carries_the_code_the_templates_and_every_config(wheel):
    names = set(wheel.namelist())
    configs = {path.relative_to(config_dir()).as_posix() for path in config_dir().rglob("*.yaml")}
    assert {"run.yaml", "train.yaml", "shield/quantile.yaml"} <= configs
    assert {f"flowshield/configs/{name}" for name in configs} <= names
    package = [*ROOT.glob("flowshield/**/*.py"), *ROOT.glob("flowshield/**/*.j2")]
    assert {path.relative_to(ROOT).as_posix() for path in package} <= names
    assert not [name for name in names if name.startswith(("tests/", "configs/"))]


@pytest.mark.slow
def test_the_wheels_configs_are_found_where_there_is_no_checkout(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    program = "import flowshield.config as c; c.compose('run'); print(c.config_dir())"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == str(tmp_path / "site" / "flowshield" / "configs"), result.stderr
