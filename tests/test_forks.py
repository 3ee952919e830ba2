"""No process here is a copy of another: a copy of one that had threads may wait for ever.

A lock that another thread held at that moment nobody lets go of in the copy, torch's pool of
threads among them. New processes start from nothing ("spawn"), or out of a server that has computed
nothing ("forkserver").
"""

import ast
import subprocess
import sys
import textwrap

import pytest
from pages import PAGES, ROOT, blocks
from patience import PATIENCE_S

FOLDERS = ("benchmarks", "docs", "examples", "flowshield", "ray_jobs", "tests")
SAFE = ("spawn", "forkserver")
# Calls that start processes, and the argument that says how: its place, its name
STARTERS = {
    "get_context": (0, "method"),
    "set_start_method": (0, "method"),
    "ProcessPoolExecutor": (1, "mp_context"),
    "AsyncVectorEnv": (None, "context"),
    "SubprocVecEnv": (1, "start_method"),
}
# What multiprocessing starts in its default way, which is a fork on Linux before Python 3.14
DEFAULTS = {"Manager", "Pool", "Process"}


def forks(source):
    """What of a program may copy a process, a line each."""
    return [
        f"line {node.lineno}: {ast.unparse(node)[:80]}"
        for node in ast.walk(ast.parse(source))
        if _forks(node)
    ]


def _forks(node):
    if isinstance(node, ast.ImportFrom):
        module, names = node.module or "", {alias.name for alias in node.names}
        if module in ("os", "pty"):
            return bool(names & {"fork", "forkpty"})
        return module in ("multiprocessing", "torch.multiprocessing") and bool(names & DEFAULTS)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = node.value.id
        if owner in ("os", "pty"):
            return node.attr in ("fork", "forkpty")
        return owner in ("multiprocessing", "mp") and node.attr in DEFAULTS
    return isinstance(node, ast.Call) and _call_forks(node)


def _call_forks(call):
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "preexec_fn" in named:  # runs Python in the copy
        return True
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    if name == "DataLoader":
        workers = named.get("num_workers")
        return workers is not None and "multiprocessing_context" not in named
    if name not in STARTERS or ast.unparse(call.func) == "ray.train.get_context":
        return False
    place, keyword = STARTERS[name]
    placed = call.args[place] if place is not None and len(call.args) > place else None
    how = named.get(keyword, placed)
    if how is None:
        return True
    # a name stands for a context that another line made, which is looked at there
    return isinstance(how, ast.Constant) and how.value not in SAFE


@pytest.mark.parametrize(
    "source",
    [
        "import os; os.fork()",
        "from os import fork",
        "import pty; pty.fork()",
        "import multiprocessing; multiprocessing.Process(target=print)",
        "import multiprocessing as mp; mp.Pool(2)",
        "from torch.multiprocessing import Pool",
        'multiprocessing.get_context("fork")',
        "multiprocessing.get_context()",
        'multiprocessing.set_start_method("fork")',
        "ProcessPoolExecutor(4)",
        "concurrent.futures.ProcessPoolExecutor(max_workers=4)",
        'subprocess.run(["ls"], preexec_fn=lambda: None)',
        "DataLoader(rows, num_workers=2)",
        "SubprocVecEnv(makers)",
        'gym.vector.AsyncVectorEnv(makers, context="fork")',
    ],
)
def test_a_fork_is_seen(source):
    assert forks(source)


@pytest.mark.parametrize(
    "source",
    [
        'context = multiprocessing.get_context("spawn"); ProcessPoolExecutor(4, context)',
        'multiprocessing.get_context("forkserver").Process(target=print)',
        "DataLoader(rows, batch_size=4)",
        'SubprocVecEnv(makers, start_method="spawn")',
        'AsyncVectorEnv(makers, context="forkserver")',
        "with torch.random.fork_rng(devices=[]): pass",
    ],
)
def test_a_new_process_is_no_fork(source):
    assert forks(source) == []


def test_nothing_in_the_tree_forks():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 300
    found = {path.relative_to(ROOT).as_posix(): forks(path.read_text()) for path in files}
    for page in PAGES:
        programs = [text for language, text in blocks(page) if language == "python"]
        found[page] = [fork for text in programs for fork in forks(textwrap.dedent(text))]
    assert {name: forked for name, forked in found.items() if forked} == {}


FUZZ = """
import sys
from pathlib import Path

import torch

torch.set_num_threads(2)
torch.ones(1 << 22).exp()  # large enough for both threads
sys.path.insert(0, sys.argv[1])
from run import fuzz

print([verdict.partition(":")[0] for _, verdict in fuzz("fit", range(60), Path(sys.argv[2]))])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fuzzer is for Linux")
def test_files_are_fuzzed_after_torch_ran_on_two_threads(tmp_path):
    """A training resumed in a worker once waited for ever for the threads of its parent."""
    program = [sys.executable, "-c", FUZZ, ROOT / "tests" / "fuzz", tmp_path / "box"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    verdicts = done.stdout.replace("'", "").strip("[]\n").split(", ")
    assert len(verdicts) == 60 and set(verdicts) == {"whole", "refused"}  # a whole one trains
