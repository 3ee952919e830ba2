import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import flowshield

PACKAGE = Path(flowshield.__file__).parent

# Who may import whom, by the first name below flowshield. Leaves are open to everyone above them.
# "" is flowshield itself: its version
CONFIG = {"errors", "schema", "overrides", "groups", "config"}
LEAVES = {
    *CONFIG,
    *("atomic", "filesystem", "limits", "lock", "marks", "paths", "plain_pickle", "progress"),
    *("counted", "room", "scratch", "shell", ""),
}
BELOW_TRAINING = {"models", "data", "envs"}
ALLOWED = {
    "": {"matplotlib_backend"},
    "errors": set(),
    "matplotlib_backend": set(),
    "atomic": {"errors", "marks", "paths"},
    "filesystem": {"atomic", "errors", "paths"},
    "limits": {"errors"},
    "plain_pickle": set(),
    "plugins": {"errors", "shell"},
    "counted": set(),
    "room": set(),
    "lock": {"atomic", "errors"},
    "marks": set(),
    "scratch": {"lock", "errors", "marks"},
    "progress": {"errors"},
    "overrides": {"errors", "paths", "schema", "shell"},
    "paths": {"errors"},
    "schema": {"errors", "paths", "shell"},
    "shell": set(),
    "groups": {"errors", "overrides", "schema"},
    "config": {"errors", "schema", "groups"},
    "search_space": CONFIG,
    "envs": LEAVES,
    "data": LEAVES | {"envs"},
    "models": LEAVES - {"config", "groups", "overrides", "schema"},
    "training": LEAVES | BELOW_TRAINING,
    "evaluation": LEAVES | BELOW_TRAINING,
    "distributed": LEAVES | BELOW_TRAINING | {"training", "evaluation", "search_space"},
    "mirror": LEAVES,
    "json_files": {"atomic", "errors"},
    "machine": set(),
    "run_folder": LEAVES | {"json_files", "mirror"},
    "run_config": CONFIG | {"atomic", "run_folder"},
    "pipeline": LEAVES
    | BELOW_TRAINING
    | {"training", "evaluation", "search_space", "distributed"}
    | {"json_files", "machine", "plugins", "run_config", "run_folder"},
}
TOP = {"cli", "__main__"}
# Trainer and DataCollector import their half of distributed inside the method that needs it, and
# for the type checker.
DOOR = {"training", "data"}
MAY_IMPORT_RAY = {"distributed", "cli", "__main__"}


class Import(NamedTuple):
    file: Path
    line: int
    target: str
    inside_function: bool

    def __str__(self):
        return f"{self.file.relative_to(PACKAGE.parent)}:{self.line} imports {self.target}"


def imports(file: Path) -> Iterator[Import]:
    yield from _imports(file, ast.parse(file.read_text()), inside=False)


def _imports(file, node, inside):
    inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _types_only(node)
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(file, node.lineno, alias.name, inside)
    elif isinstance(node, ast.ImportFrom):
        module = _absolute(file, node)
        for alias in node.names:
            # `from flowshield import models` is an import of flowshield.models
            name = f"{module}.{alias.name}" if module == "flowshield" else module
            yield Import(file, node.lineno, name, inside)
    for child in ast.iter_child_nodes(node):
        yield from _imports(file, child, inside)


def _types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _absolute(file, node):
    if node.level == 0:
        return node.module
    parts = ["flowshield", *file.relative_to(PACKAGE).parent.parts]
    base = ".".join(parts[: len(parts) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def layer(target: str) -> str | None:
    """The first name below flowshield, "" for the package itself, None for another package."""
    if target.split(".")[0] != "flowshield":
        return None
    name = target.split(".")[1] if "." in target else ""
    return "" if name.startswith("__") else name


def layer_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def python_files():
    return sorted(PACKAGE.rglob("*.py"))


def violations():
    for file in python_files():
        here = layer_of(file)
        if here in TOP:
            continue
        for found in imports(file):
            there = layer(found.target)
            door = found.inside_function and here in DOOR and there == "distributed"
            if there is not None and there != here and there not in ALLOWED[here] and not door:
                yield str(found)


def test_every_module_has_its_place():
    unplaced = {layer_of(file) for file in python_files()} - ALLOWED.keys() - TOP
    assert not unplaced, f"say in ALLOWED what these may import: {unplaced}"


def test_imports_point_one_way():
    assert not list(violations())


def test_the_table_of_layers_has_no_cycle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        # the package's own __init__ holds the version and imports nothing
        ready = {name for name in ALLOWED.keys() - done if ALLOWED[name] <= done | {""}}
        assert ready, f"cycle among {ALLOWED.keys() - done}"
        done |= ready


def test_only_distributed_imports_ray():
    offenders = [
        str(found)
        for file in python_files()
        if layer_of(file) not in MAY_IMPORT_RAY
        for found in imports(file)
        if found.target.split(".")[0] == "ray"
    ]
    assert not offenders


def test_importing_everything_else_never_imports_ray_or_an_extra():
    modules = [
        ".".join(["flowshield", *file.relative_to(PACKAGE).with_suffix("").parts])
        for file in python_files()
        if layer_of(file) not in MAY_IMPORT_RAY
    ]
    modules = [name.removesuffix(".__init__") for name in modules]
    program = (
        "import importlib, sys\n"
        "EXTRAS = ('ray', 'wandb', 'minari', 'h5py', 'optuna', 'imageio_ffmpeg')\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "loaded = sorted(m for m in sys.modules if m.split('.')[0] in EXTRAS)\n"
        "assert not loaded, loaded[:5]\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "file",
    sorted(PACKAGE.rglob("__init__.py")),
    ids=lambda file: str(file.relative_to(PACKAGE)),
)
def test_an_init_only_reexports(file):
    docstring, *body = ast.parse(file.read_text()).body
    assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)
    allowed = {"__all__", "__version__"} if file.parent == PACKAGE else {"__all__"}
    exported: set[str] = set()
    names: list[str] = []
    if file.parent == PACKAGE:  # the one thing to be done before any import
        body = [one for one in body if "settle_backend" not in ast.unparse(one)]
    for statement in body:
        if isinstance(statement, ast.ImportFrom):
            assert layer(_absolute(file, statement)) is not None
            exported |= {alias.asname or alias.name for alias in statement.names}
            continue
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        (target,) = statement.targets
        assert isinstance(target, ast.Name) and target.id in allowed, ast.unparse(statement)
        if target.id == "__all__":
            names = ast.literal_eval(statement.value)
        exported.add(target.id)
    assert set(names) <= exported
    assert exported - {"__all__"} == set(names), "what is imported and not exported, or the reverse"


def test_every_module_says_first_what_it_exports():
    for file in python_files():
        if file.name in ("__init__.py", "__main__.py"):
            continue
        first = next(
            node
            for node in ast.parse(file.read_text()).body
            if not isinstance(node, ast.Expr)  # the docstring
        )
        assert isinstance(first, ast.Assign) and ast.unparse(first.targets[0]) == "__all__", file


def test_no_module_is_named_after_nothing():
    vague = {"utils", "util", "helpers", "common", "misc"}
    assert not [file for file in python_files() if file.stem in vague]


def test_nothing_is_decided_by_a_clock_that_can_be_set():
    """Times are taken with time.monotonic and time.perf_counter; those below decide nothing."""
    allowed = {
        "run_config.py": {"now"},  # the name of a new run folder, where that is not taken
        "mirror.py": {"st_mtime_ns"},  # beside size and inode: whether a file was rewritten
    }
    clocks = {"time", "time_ns", "now", "today", "utcnow", "getmtime", "getctime", "localtime"}
    clocks |= {f"st_{letter}time{unit}" for letter in "acm" for unit in ("", "_ns")}
    found = {
        file.name: {
            node.attr
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in clocks
        }
        for file in python_files()
    }
    assert {name: used for name, used in found.items() if used} == allowed
    imported = [str(i) for file in python_files() for i in imports(file) if i.target == "time"]
    froms = [text for file in python_files() if "from time import" in (text := file.read_text())]
    assert imported and not froms
