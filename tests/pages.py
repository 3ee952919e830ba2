"""The pages that users read, and what these tell them to type."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md"))]

# By how it begins: why a command is not run.
NOT_RUN = {
    "pip install": "needs the network",
    "pytest": "is the suite that runs this",
    "python benchmarks/": "hours; its short forms are in benchmarks/, and what is typed is parsed",
    "git worktree": "needs the history of the repository, and writes beside it",
    "PYTHONPATH=../before": "hours, as the benchmarks, in the worktree that the line before makes",
    "python tests/": "as the benchmarks; the short form is in soak/",
    "ray job submit": "needs a cluster; distributed/test_jobs.py submits to one",
    "ray up": "needs an account of AWS's; distributed/test_cluster_files.py reads the file",
    "tensorboard": "serves until it is stopped; test_pipeline.py reads what it shows",
    "flowshield run use_wandb=true": "needs the extra wandb; training/test_logger.py logs with it",
}


def text_of(page):
    return (ROOT / page).read_text()


def blocks(page):
    """(language, text) of every block of Python or shell in a page."""
    pattern = r"^```(python|bash)\n(.*?)^```"
    return re.findall(pattern, text_of(page), flags=re.DOTALL | re.MULTILINE)


def commands(page):
    """The words of every command in a page's blocks of shell."""
    return [words for language, text in blocks(page) if language == "bash" for words in typed(text)]


def typed(shell):
    """The words of every command in a block of shell."""
    for line in shell.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def is_run(words):
    return not shlex.join(words).startswith(tuple(NOT_RUN))
