"""The user's own modules, for the programs that come with the package."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from patience import PATIENCE_S

from flowshield.envs.registry import env_module
from flowshield.errors import ConfigError
from flowshield.plugins import import_plugins, words_for_plugins

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


CART = (EXAMPLES / "own_environment.py").read_text().partition("if __name__")[0]
COLLECT = ["collect", "env.name=cart", "env.commands=[[9,0]]", "behaviour=random", "device=cpu"]
COLLECT += ["ray.num_workers=0", "data.n_episodes=2", "run_dir=runs/cart"]
GUARDED = f"{CART}if __name__ == '__main__':\n    sys.exit(main({COLLECT}))\n"
BARE = f"{CART}sys.exit(main({COLLECT}))\n"


def ran(script, source, cwd):
    """What a script prints that is called in a folder."""
    script.parent.mkdir(exist_ok=True)
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, str(script.relative_to(cwd)), "a b"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "FLOWSHIELD_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_script_says_to_type_knows_what_the_script_registered(tmp_path):
    told = ran(tmp_path / "my scripts" / "own_cart.py", GUARDED, tmp_path)
    hint = re.search(r"\(to go on later: (.*)\)", told)[1]
    assert hint.startswith("FLOWSHIELD_PLUGINS=own_cart PYTHONPATH='my scripts:")
    assert hint.endswith(" flowshield collect run_dir=runs/cart")
    typed = json.loads((tmp_path / "runs" / "cart" / "commands.json").read_text())["typed"]
    assert typed == ["python 'my scripts/own_cart.py' 'a b'"]  # and nothing that nobody typed
    program = f'flowshield() {{ {shlex.quote(sys.executable)} -m flowshield "$@"; }}'
    for line, code in (("flowshield collect run_dir=runs/cart", 1), (hint, 0)):
        (tmp_path / "runs" / "cart" / "dataset.npz").unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", "-c", f"{program}\n{line}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == code, done.stderr
        assert code == 0 or "unknown environment 'cart'" in done.stderr


def test_a_script_that_cannot_be_imported_is_no_plugin(tmp_path):
    told = ran(tmp_path / "own_cart.py", BARE, tmp_path)
    line = "flowshield collect run_dir=runs/cart with FLOWSHIELD_PLUGINS naming a module that"
    assert f"(to go on later: {line}" in told


def test_modules_of_the_users_own_are_told_with_their_folders(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "carts.py").write_text(CART.replace('"cart"', '"other_cart"'))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FLOWSHIELD_PLUGINS", "own_package")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    import_plugins()
    importlib.import_module("own_package.carts")
    assert env_module("other_cart") == "own_package.carts"
    words = words_for_plugins(["own_package.carts"])
    assert words == ["FLOWSHIELD_PLUGINS=own_package,own_package.carts", f"PYTHONPATH={tmp_path}"]
    monkeypatch.delenv("FLOWSHIELD_PLUGINS")
    assert words_for_plugins([]) == []


@pytest.mark.parametrize("name", ["lunarlander", "LunarLander-v3", "Acrobot-v1", "nobodys-v0"])
def test_environments_that_every_process_knows_need_no_module(name):
    assert env_module(name) is None


def test_environments_of_gymnasiums_registry_are_known_by_their_entry_point():
    for entry, module in (("mine.carts:Cart", "mine.carts"), (dict, "builtins")):
        gym.register("Own-v0", entry)
        try:
            assert env_module("Own-v0") == module
        finally:
            del gym.registry["Own-v0"]
