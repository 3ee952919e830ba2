"""What a notebook hands to the processes that it starts, and what is the notebook's own."""

import io
import os
import subprocess
import sys

import pytest
from patience import PATIENCE_S
from rich.console import Console

from flowshield.progress import Reporter

INLINE = "module://matplotlib_inline.backend_inline"  # what every notebook sets
DRAW = """
import io, sys
from importlib.util import find_spec
from flowshield.envs import make_env
if find_spec("highway_env"):
    make_env("highway")  # highway-env imports pyplot
import flowshield.pipeline
from flowshield.evaluation import plot_returns
from flowshield.training import Logger
figure = plot_returns([{"command": [1, 2], "shield": "none", "return_mean": 3.0}])
figure.savefig(io.BytesIO(), format="svg")
with Logger(sys.argv[1]) as logger:
    logger.log_figure("returns", figure, 0)
"""
KEEP = """
import os
import flowshield, flowshield.evaluation
import matplotlib
print(matplotlib.get_backend(), os.environ["MPLBACKEND"])
"""


def python(program, backend, *words, path=()):
    search = os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env={**os.environ, "MPLBACKEND": backend, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize("backend", [INLINE, "nonsense", "module://nowhere.at_all", "TkAgg"])
def test_figures_are_drawn_whatever_backend_the_environment_names(backend, tmp_path):
    done = python(DRAW, backend, tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("events*"))


@pytest.mark.parametrize("command", [["--help"], ["config"]])
def test_the_command_line_starts_in_a_notebooks_subprocess(command):
    program = "import sys; from flowshield.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(program, INLINE, *command)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_notebooks_wish_for_colours_draws_no_bars_into_a_file(monkeypatch):
    for name in ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE"):  # as ipykernel sets them
        monkeypatch.setenv(name, "1")
    screen = io.StringIO()
    reporter = Reporter(Console(file=screen))
    assert reporter.console.is_terminal
    with reporter.bar("episodes", 3) as bar:
        bar.advance()
    assert screen.getvalue() == ""


def test_a_module_of_ones_own_may_import_matplotlib_first(tmp_path):
    (tmp_path / "mine.py").write_text("import matplotlib.pyplot\n")
    program = "import flowshield, mine"
    done = python(program, INLINE, path=[tmp_path])
    assert done.returncode == 0, done.stderr


def test_a_notebook_keeps_its_own_backend(tmp_path):
    (tmp_path / "of_a_notebook.py").write_text("from matplotlib.backends.backend_agg import *\n")
    backend = "module://of_a_notebook"
    assert python(KEEP, backend, path=[tmp_path]).stdout.split() == [backend, backend]
