"""Tests wait for other processes as long as a busy machine needs: see patience.py."""

import ast

from pages import ROOT

# What comes after their time is up is no failure: processes are killed, a head is asked again
RETRIED = {"wait_procs", "urlopen"}


def impatient(source):
    """Waits of a program that end after a number of seconds, a line each."""
    return [
        f"line {node.lineno}: {ast.unparse(node)[:80]}"
        for node in ast.walk(ast.parse(source))
        if _ends_early(node)
    ]


def _ends_early(node):
    if isinstance(node, ast.BinOp):  # a deadline
        return ast.unparse(node.left) == "time.monotonic()" and _is_number(node.right)
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", None))
    if name == "select":
        return len(node.args) > 3 and _is_number(node.args[3])
    limits = [keyword.value for keyword in node.keywords if keyword.arg == "timeout"]
    return name not in RETRIED and any(map(_is_number, limits))


def _is_number(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def test_a_wait_of_some_seconds_is_seen():
    for source in (
        "subprocess.run(program, timeout=240)",
        "deadline = time.monotonic() + 60",
        "process.communicate(timeout=2.5)",
        "select.select([ours], [], [], 60)",
    ):
        assert impatient(source)
    assert impatient("subprocess.run(program, timeout=PATIENCE_S)") == []


def test_no_test_gives_up_another_process_early():
    found = {
        path.relative_to(ROOT).as_posix(): impatient(path.read_text())
        for path in (ROOT / "tests").rglob("*.py")
    }
    assert len(found) > 150
    assert {name: waits for name, waits in found.items() if waits} == {}
