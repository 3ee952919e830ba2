"""Collection throughput: rollout actors beside bare loops, vector environments and RLlib.

Run it from the repository's root, with the package installed::

    python benchmarks/collection.py
    python benchmarks/collection.py --workers 1 2 16 --seconds 20 --json collection.json
    python benchmarks/collection.py --memory

Everyone steps the continuous LunarLander-v3 of `make_env("lunarlander")`, under uniformly random
actions and under an untrained network of four hidden layers of 256, on one thread a process. They
take turns, so that whatever else the machine does falls on all of them alike.

Contenders, where what they need is installed:

* ``bare loop``: one process and one environment, the loop of Gymnasium's documentation.
* ``N bare processes``: as many that know nothing of each other, with 1 environment each under
  random actions and 16 each, the network called once for all, under the network: the ceiling of
  this machine. What they see they forget.
* ``SyncVectorEnv``, ``AsyncVectorEnv`` (Gymnasium) and ``SubprocVecEnv`` (Stable-Baselines3): the
  latter two with a process an environment. What they see goes through one process.
* ``RLlib, N env runners``: with 16 environments each and a network of RLlib's own of the same
  layers. It needs the packages of the extra `bench`, not the extra `ray[rllib]`, which pins
  another Gymnasium.
* ``ours, N actors``: what `collect_shared` runs, with 64 environments each.

Columns: ``start-up``, the seconds until it was ready, Ray's own start apart; ``steps/s``, the
median over the rounds, and ``range``, the slowest and the fastest round; ``x bare loop``, the
median over the rounds of this contender's speed as a multiple of the bare loop's in the same
round. Below the table the ratios that the requirements speak of, taken in the same way.

``--memory`` collects 1,000,000 transitions instead, and prints the memory of this process, the
driver, on the way: the tables stay with the actors' object store.
"""

__all__ = ["main"]

import argparse
import importlib
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

from collecting.contender import Contender, Measurement, interleave
from rich.console import Console
from rich.table import Table
from rounds import median_and_range

from flowshield.paths import typed_path

POLICIES = ("random", "network")
KINDS = ("bare", "sync", "async", "sb3", "rllib", "ours")
_NEEDS = {
    "sb3": ("stable_baselines3",),
    "rllib": ("ray", "tree", "lz4", "ormsgpack"),
    "ours": ("ray",),
}
_BATCH = 16  # environments of a bare process and of an env runner under the network


def missing(kind: str) -> list[str]:
    """Modules that a kind of contender needs and that are not installed."""
    return [name for name in _NEEDS.get(kind, ()) if importlib.util.find_spec(name) is None]


def contenders(
    kinds: Sequence[str], policy: str, workers: Sequence[int], n_vector: int
) -> list[tuple[str, Callable[[], Contender]]]:
    """The contenders of these kinds by name, each as what makes it.

    Args:
        kinds: Some of `KINDS`.
        policy: "random" or "network".
        workers: Numbers of processes, of env runners the second alone.
        n_vector: Environments of a vector.
    """
    in_bare = 1 if policy == "random" else _BATCH

    def one(name: str, *late: Any) -> tuple[str, Callable[[], Contender]]:
        return name, partial(_make, *late)

    found = {
        "bare": [
            one("bare loop", "bare.BareLoop", policy),
            *(one(_bare(n), "bare.BareProcesses", policy, n, in_bare) for n in workers),
        ],
        "sync": [one("SyncVectorEnv", "vector_envs.GymnasiumVector", policy, n_vector, False)],
        "async": [one("AsyncVectorEnv", "vector_envs.GymnasiumVector", policy, n_vector, True)],
        "sb3": [one("SubprocVecEnv", "vector_envs.StableBaselinesVector", policy, n_vector)],
        "rllib": [one(_rllib(2), "rllib_runners.EnvRunners", policy, 2, _BATCH)],
        "ours": [one(_ours(n), "ours.RolloutActorsContender", policy, n) for n in workers],
    }
    return [each for kind in KINDS if kind in kinds for each in found[kind]]


def _make(name: str, *arguments: Any) -> Contender:
    """Makes a contender by its name in `collecting`.

    Only now is it imported: every process that is spawned to step one environment imports this
    file before, and what contenders need may not be installed.
    """
    module, cls = name.split(".")
    contender: Contender = getattr(importlib.import_module(f"collecting.{module}"), cls)(*arguments)
    return contender


def _bare(n: int) -> str:
    return f"{n} bare process{'es' if n > 1 else ''}"


def _rllib(n: int) -> str:
    return f"RLlib, {n} env runners"


def _ours(n: int) -> str:
    return f"ours, {n} actor{'s' if n > 1 else ''}"


# ---------------------------------------------------------------- output


def ratios(found: Sequence[Measurement], workers: Sequence[int]) -> list[str]:
    """What is asked of two actors and of more, as far as it was measured."""
    by_name = {one.contender: one for one in found}
    pairs = [(_ours(n), _bare(n), 0.9 if n <= 2 else 0.85) for n in workers]
    pairs += [(_ours(2), "SubprocVecEnv", 4.0), (_ours(2), _rllib(2), 2.5)]
    return [
        f"{ours} / {theirs}: {by_name[ours].times(by_name[theirs]):.2f} (target {target:g})"
        for ours, theirs, target in pairs
        if ours in by_name and theirs in by_name
    ]


def _table(found: Sequence[Measurement]) -> Table:
    table = Table("contender", title=f"{found[0].policy} policy")
    for column in ("start-up", "steps/s", "range", "x bare loop"):
        table.add_column(column, justify="right")
    loop = next((one for one in found if one.contender == "bare loop"), None)
    for one in found:
        table.add_row(
            one.contender,
            f"{one.startup_seconds:.1f} s",
            *median_and_range(one.steps_per_second),
            "" if loop is None else f"{one.times(loop):.2f}",
        )
    return table


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Collection throughput beside other ways.")
    cores = os.cpu_count() or 1
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, 2, cores}))
    parser.add_argument("--vector-envs", type=int, default=16, help="environments of a vector")
    parser.add_argument("--seconds", type=float, default=10.0, help="time of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="does it run? no numbers to quote")
    parser.add_argument("--memory", action="store_true", help="watch the driver's memory instead")
    parser.add_argument("--transitions", type=int, default=1_000_000, help="of --memory")
    parser.add_argument("--json", type=typed_path, help="where to write every round's speeds")
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.seconds, parsed.rounds, parsed.vector_envs = 0.1, 1, 2
        parsed.workers, parsed.transitions = [2], 5_000
    if min(*parsed.workers, parsed.rounds, parsed.vector_envs, parsed.transitions) < 1:
        parser.error("expected numbers of at least 1")
    return parsed


def _ray_session(n_cpus: int) -> AbstractContextManager[object]:
    """A Ray in which everyone's actors find a CPU; only those whose turn it is work."""
    import ray

    from flowshield.distributed.patience import patient_start

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with patient_start():
        return ray.init(
            address="local", num_cpus=n_cpus, include_dashboard=False, log_to_driver=False
        )


def _watch_memory(options: argparse.Namespace, console: Console) -> list[dict[str, object]]:
    from collecting.memory import MemoryReading, watch_driver

    def say(reading: MemoryReading) -> None:
        console.print(
            f"{reading.transitions:>9,} transitions: driver {reading.resident_mib:.1f} MiB, "
            f"peak {reading.peak_mib:.1f} MiB"
        )

    workers = max(options.workers)
    every = options.transitions // 10
    readings, size = watch_driver(options.transitions, workers, every, say)
    grown = readings[-1].resident_mib - readings[0].resident_mib
    console.print(
        f"{workers} actors collected {size:.1f} MiB; meanwhile the driver grew by {grown:.1f} MiB"
    )
    return [asdict(reading) for reading in readings]


def _compare(
    options: argparse.Namespace, kinds: Sequence[str], console: Console
) -> list[dict[str, object]]:
    found: list[Measurement] = []
    for policy in options.policies:
        chosen = contenders(kinds, policy, options.workers, options.vector_envs)
        measured = interleave(chosen, policy, options.seconds, options.rounds)
        console.print(_table(measured))
        for line in ratios(measured, options.workers):
            console.print(line, highlight=False)
        found += measured
    return [asdict(one) for one in found]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table a policy or the driver's memory, and writes JSON where asked to."""
    options, console = _arguments(arguments), Console()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started here
    kinds = ["ours"] if options.memory else options.kinds
    for kind in kinds:
        if absent := missing(kind):
            console.print(f"left out: {kind}, for want of {', '.join(absent)}")
    kinds = [kind for kind in kinds if not missing(kind)]
    console.print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )
    start, session = time.perf_counter(), nullcontext()
    if {"ours", "rllib"} & set(kinds):
        session = _ray_session(sum(options.workers) + 4)
        console.print(f"Ray's start: {time.perf_counter() - start:.1f} s")
    with session:
        records = (
            _watch_memory(options, console) if options.memory else _compare(options, kinds, console)
        )
    if options.json is not None:
        options.json.write_text(json.dumps(records, indent=2))


if __name__ == "__main__":
    main()
