"""The benchmark of achievability: does a shield know what can be asked for?

Run it from the repository's root, with the package installed::

    python benchmarks/achievability.py --out results/achievability --jobs 2
    python benchmarks/achievability.py --out results/achievability --parts detection,calibration
    python benchmarks/achievability.py --out /tmp/quick --quick

The protocol has six parts: known answers (`known`), provably impossible commands (`detection`),
realised false-alarm rates (`calibration`), `projection`, the agent's `behaviour` on a grid of
commands, and `latency`. Each (part, dataset, seed, model) is a small JSON file under OUT/parts,
written whole or not at all; what is on file is not done again, so an interrupted run goes on
where it was, unless it is older than what it was made from: delete the record of a training, and
what judged that model is done again too. A training itself goes on from OUT/checkpoints: for other
settings take another OUT.

OUT/results.json holds the results, OUT/tables.md the tables and what they say about the targets,
OUT/figures the figures; they are written whenever the command ends, and hold what this call asked
for (its parts, datasets, seeds, models), whichever call made it.

Judged are the package's shields, controls of ten lines (`benchmarks/controls.py`) and, where the
extra `bench` is installed, densities from elsewhere (`benchmarks/peers.py`).
"""

__all__ = ["main"]

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from protocol.plan import plan
from protocol.report import write_report
from protocol.schedule import Context, run_tasks
from protocol.settings import PARTS, Settings, full, quick
from rich.console import Console

from flowshield.errors import FlowshieldError
from flowshield.paths import typed_path
from flowshield.shell import command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes what is missing, then writes tables and figures; 1 if something could not be made."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options, console = _arguments(given), Console()
    torch.set_num_threads(1)
    start = time.perf_counter()
    context = Context(_settings(options), options.out)

    def say(line: str) -> None:
        seconds = time.perf_counter() - start
        console.print(f"{seconds:7.0f} s  {line}", highlight=False, markup=False, soft_wrap=True)

    try:
        context.store.agree(context.settings.identity())
        failed = run_tasks(plan(context.settings, options.parts), context, options.jobs, say)
    except FlowshieldError as error:
        console.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    tables = write_report(context, options.parts, _command(given, options.out))
    console.print(tables, highlight=False, markup=False, soft_wrap=True)
    for key, error in failed.items():
        console.print(f"MISSING {key}: {error}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0


def _command(given: Sequence[str], out: Path) -> str:
    """The call as anybody can repeat it: of a folder of this machine only the last name is told."""
    told = out.name if out.is_absolute() else str(out)
    words = [word.replace(str(out), told) for word in given]
    return command_line("python", "benchmarks/achievability.py", *words)


def _settings(options: argparse.Namespace) -> Settings:
    settings = quick() if options.quick else full()
    chosen = {
        "datasets": options.datasets,
        "seeds": options.seeds,
        "shields": options.shields,
        "peers": options.peers,
        "overrides": (*settings.overrides, *options.override) if options.override else None,
    }
    lists = {key: tuple(value) for key, value in chosen.items() if value is not None}
    if options.peer_seconds is not None:
        settings = dataclasses.replace(settings, peer_seconds=options.peer_seconds)
    return dataclasses.replace(settings, **lists)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Does a shield know what can be asked for?")
    parser.add_argument("--out", type=typed_path, required=True, help="folder of results; made")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument(
        "--parts", type=_words, default=PARTS, help="some of " + ",".join(PARTS) + "; all"
    )
    parser.add_argument("--datasets", type=_words, help="some of mixed,expert")
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in _words(text)])
    parser.add_argument("--shields", type=_words, help="shield types, all of the package's")
    parser.add_argument("--peers", type=_words, help="densities from elsewhere; '' for none")
    parser.add_argument("--peer-seconds", type=float, help="training budget of each of these")
    parser.add_argument(
        "--override", action="append", help="a Hydra override of training, such as shield_epochs=20"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, one torch thread each")
    parsed = parser.parse_args(arguments)
    unknown = set(parsed.parts) - set(PARTS)
    if unknown:
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    if parsed.jobs < 1:
        parser.error("--jobs: expected at least 1")
    return parsed


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    sys.exit(main())
