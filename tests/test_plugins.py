"""The user's own modules, for the programs that come with the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S

from flowshield.errors import ConfigError
from flowshield.plugins import import_plugins

EXAMPLES = Path(__file__).parents[1] / "examples"


def flowshield(*arguments, plugins, cwd):
    path = os.pathsep.join([str(EXAMPLES.parent), str(EXAMPLES)])
    return subprocess.run(
        [sys.executable, "-m", "flowshield", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "FLOWSHIELD_PLUGINS": plugins},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_the_program_knows_a_shield_and_an_environment_of_a_plugin(tmp_path):
    overrides = ["env.name=cart", "shield=gaussian", "shield.gaussian.hidden_dim=8"]
    done = flowshield("config", *overrides, plugins="own_shield, own_environment", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gaussian:" in done.stdout and "hidden_dim: 8" in done.stdout
    without = flowshield("config", *overrides, plugins="", cwd=tmp_path)
    assert without.returncode == 1 and "FLOWSHIELD_PLUGINS" in without.stderr


def test_help_names_the_shields_of_plugins_and_is_there_without_them(tmp_path):
    listed = flowshield("run", "--help", plugins="own_shield", cwd=tmp_path)
    assert listed.returncode == 0 and "flow_matching|gaussian|mixture" in listed.stdout
    without = flowshield("run", "--help", plugins="no_such_module", cwd=tmp_path)
    assert without.returncode == 0 and "flow_matching|mixture" in without.stdout


def test_a_plugin_that_is_not_there_is_one_line(tmp_path):
    done = flowshield("config", plugins="no_such_module", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("flowshield: FLOWSHIELD_PLUGINS: cannot import 'no_such_module'")
    assert "PYTHONPATH" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_a_plugin_that_fails_is_named_with_what_it_raised(tmp_path, monkeypatch, line, told):
    (tmp_path / "broken_plugin.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FLOWSHIELD_PLUGINS", "broken_plugin")
    with pytest.raises(ConfigError, match=f"'broken_plugin': {told}; mend it"):
        import_plugins()
