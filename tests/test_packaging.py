import re
import subprocess
import sys
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
    text = (ROOT / "pyproject.toml").read_text()
    pins = (ROOT / "constraints.txt").read_text()
    named = re.findall(r'^\s*(?:wandb = \[|minari = \[)?"([A-Za-z0-9_-]+)(?:\[\w+\])?>=', text, re.M)
    assert {"torch", "numpy", "pytest", "wandb"} <= set(named)
    assert [name for name in named if f"\n{name}==" not in pins] == []


@pytest.mark.slow
def test_the_wheel_carries_every_config(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-q", "-w", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("flowshield-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {path.relative_to(config_dir()).as_posix() for path in config_dir().rglob("*.yaml")}
    assert {"run.yaml", "train.yaml", "shield/quantile.yaml"} <= configs
    assert {f"flowshield/configs/{name}" for name in configs} <= names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flowshield").rglob("*.py")}
    templates = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("flowshield/**/*.j2")}
    assert sources | templates <= names
    assert not [name for name in names if name.startswith(("tests/", "configs/"))]


@pytest.mark.slow
def test_the_wheels_configs_are_found_where_there_is_no_checkout(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-q", "-w", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("flowshield-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = "import flowshield.config as c; c.compose('run'); print(c.config_dir())"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == str(tmp_path / "site" / "flowshield" / "configs"), result.stderr
