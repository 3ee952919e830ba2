"""Which settings of a shield the data ask for: the figures that the comments in configs/ quote.

Run it from the repository's root, with the package installed::

    python benchmarks/densities.py --out results/densities --jobs 2
    python benchmarks/densities.py --out results/densities --shields mixture --seeds 42

Every variant changes one setting of the shipped configuration and is trained by the package's
Trainer on the mixed episodes of `benchmarks/achievability.py`, split as there. It is judged on the
VALIDATION episodes alone, by the likelihood of their dequantised commands and by how well it tells
impossible commands from true ones: what is chosen here has not seen a test episode.

The second table holds each solver, with its number of steps or its tolerance, to an adaptive solve
in float64, at true and at impossible commands.

Each result is a small JSON file under OUT/parts; what is on file is not done again.
"""

__all__ = ["main"]

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import torch
from protocol import data
from protocol.schedule import Context, Task, run_tasks
from protocol.settings import full, quick
from protocol.solvers import measure as measure_solver
from protocol.solvers import solvers_table
from protocol.store import Key
from protocol.variants import SHIPPED, VARIANTS, variants_table
from protocol.variants import measure as measure_variant
from rich.console import Console

from flowshield.atomic import atomic_write
from flowshield.machine import machine
from flowshield.paths import typed_path
from flowshield.shell import command_line

_DATASET = "mixed"
_SOLVED = ("flow_matching", "diffusion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes what is missing, prints the tables; 1 if something could not be made."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options, console = _arguments(given), Console()
    torch.set_num_threads(1)
    settings = quick() if options.quick else full()
    settings = dataclasses.replace(settings, datasets=(_DATASET,), seeds=tuple(options.seeds))
    context = Context(settings, options.out)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    context.store.agree(settings.identity())
    failed = run_tasks(_tasks(options.shields, options.seeds), context, options.jobs, say)
    command = command_line("python", "benchmarks/densities.py", *given)
    source = f"*`{command}`; {machine()}, torch {torch.__version__}.*\n"
    text = "\n".join([variants_table(context.store), solvers_table(context.store), source])
    with atomic_write(options.out / "densities.md") as file:
        file.write(text.encode())
    say(text)
    for key, error in failed.items():
        say(f"MISSING {key}: {error}")
    return 1 if failed else 0


def _tasks(shields: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    collected = Key("data", _DATASET, 0, "data")
    tasks = [Task(collected, data.measure)]
    for seed in seeds:
        for shield in shields:
            for name in VARIANTS[shield]:
                key = Key("variant", _DATASET, seed, shield, name)
                tasks.append(Task(key, measure_variant, (collected,)))
    for shield in (name for name in _SOLVED if name in shields):
        shipped = Key("variant", _DATASET, seeds[0], shield, SHIPPED)
        tasks.append(
            Task(Key("solver", _DATASET, seeds[0], shield), measure_solver, (collected, shipped))
        )
    return tasks


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Which settings do the data ask for?")
    parser.add_argument("--out", type=typed_path, required=True, help="folder of results; made")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument(
        "--shields", type=lambda text: text.split(","), default=list(VARIANTS), help="shield types"
    )
    parser.add_argument(
        "--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[42, 43]
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, one torch thread each")
    parsed = parser.parse_args(arguments)
    unknown = set(parsed.shields) - set(VARIANTS)
    if unknown:
        parser.error(f"--shields: unknown {', '.join(unknown)}; known: {', '.join(VARIANTS)}")
    return parsed


if __name__ == "__main__":
    sys.exit(main())
