"""Every environment end to end: what its policy returns without and with each shield.

    python benchmarks/environments.py                       # a few minutes an environment
    python benchmarks/environments.py --envs cartpole hopper --seeds 42 43 --profile default

Each environment and seed is one `flowshield run` in a folder of its own below --out; what is
finished there is read and not done again, and what was interrupted goes on. The tables go below a
mark in --page; what people wrote above it stays.
"""

__all__ = ["main", "page_tables"]

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowshield.cli import main as flowshield
from flowshield.envs import make_env
from flowshield.evaluation.statistics import ConfidenceInterval
from flowshield.evaluation.wording import command_label, number, percent, plus_minus, shield_label
from flowshield.paths import typed_path

_ENVS = (
    "cartpole",
    "acrobot",
    "lunarlander_discrete",
    "pendulum",
    "mountain_car",
    "hopper",
    "highway",
)
_MARK = "<!-- below this line: benchmarks/environments.py -->"
_PAGE = Path(__file__).parents[1] / "docs" / "results" / "environments.md"
_NONE = "none"

Results = list[dict[str, Any]]
"""Contents of results.json of one environment, a seed each."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, and writes the tables."""
    options = _arguments(arguments)
    found: dict[str, Results] = {}
    for env in options.envs:
        found[env] = [_results(env, seed, options) for seed in options.seeds]
        _write(options.page, page_tables(found, _typed(options)))  # what is there is not lost


def page_tables(found: dict[str, Results], command: str) -> str:
    """The tables in Markdown, one environment after the other.

    Args:
        found: Contents of results.json by environment.
        command: What the user typed.
    """
    machine = next(iter(found.values()))[0]["machine"]
    parts = [f"`{command}`; {machine}.\n", _summary(found)]
    for env, results in found.items():
        parts += [f"### {env}\n", _data_words(results), _returns(results), _shields(env, results)]
    return "\n".join(parts)


def _results(env: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.out / f"{env}_{options.profile}_{seed}"
    if not (folder / "report.html").exists():  # the last thing that a run writes
        words = [f"env={env}", f"profile={options.profile}", f"seed={seed}", "ray.num_workers=0"]
        code = flowshield(["run", *words, f"run_dir={folder}", *options.override])
        if code:
            raise SystemExit(code)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def _summary(found: dict[str, Results]) -> str:
    head = ["environment", "s", "return of the data", "AUROC", "false alarms"]
    head += ["failures, no shield", "with a shield", "return better / worse"]
    rows = []
    for env, results in found.items():
        shields = list(results[0]["shields"])
        areas = [_area(results, name) for name in shields]
        alarms = [_alarms(results, name) for name in shields]
        failures = [_failures(results, name) for name in shields]
        changes = [_changes(results, name) for name in shields]
        better, worse = sum(c[0] for c in changes), sum(c[1] for c in changes)
        data = [result["dataset"] for result in results]
        rows.append(
            [
                env,
                _per_seed(sum(sum(result["seconds"].values()) for result in results), results),
                _spread(_mean(data, "return_mean"), _mean(data, "return_std")),
                _range(areas, lambda area: number(area, 3)),
                _range([count / n for count, n in alarms], percent),
                percent(_failures(results, _NONE)),
                _range(failures, percent),
                f"{better} / {worse} of {sum(c[2] for c in changes)}",
            ]
        )
    return _table(head, rows)


def _returns(results: Results) -> str:
    """Mean return ± half its interval, and the share that failed, by guard and command."""
    cells = [cell for result in results for cell in result["cells"]]
    commands = list(dict.fromkeys(tuple(cell["command"]) for cell in cells))
    rows = []
    for guard in (_NONE, *results[0]["shields"]):
        row = [shield_label(guard)]
        for command in commands:
            chosen = [c for c in cells if c["shield"] == guard and tuple(c["command"]) == command]
            returns = [value for cell in chosen for value in cell["returns"]]
            mean = ConfidenceInterval()(returns)
            failed = _share_failed(chosen)
            row.append(
                plus_minus(mean.mean, mean.low, mean.high, 0 if abs(mean.mean) >= 100 else 1)
                + ("" if failed is None else f"; {percent(failed)}")
            )
        rows.append(row)
    return _table(["shield", *(command_label(command) for command in commands)], rows)


def _shields(env: str, results: Results) -> str:
    nominal = percent(results[0]["alpha"])
    head = ["shield", "AUROC", "detected", f"false alarms ({nominal} promised)"]
    head += ["replaced at the start", "followed: rank", "followed: within tolerance"]
    rows = []
    for name in results[0]["shields"]:
        records = [result["shields"][name] for result in results]
        followed = [result["followed"][name] for result in results]
        count, n = _alarms(results, name)
        cells = [c for r in results for c in r["cells"] if c["shield"] == name]
        rows.append(
            [
                shield_label(name),
                number(_area(results, name), 3),
                percent(_mean([record["detection"] for record in records], "detection_rate")),
                f"{percent(count / n)} ({count} of {n})",
                percent(_mean(cells, "flagged_at_start")),
                number(_mean([one["return_rank"] for one in followed], "mean")),
                percent(_mean([one["coverage"] for one in followed], "mean")),
            ]
        )
    return f"{_table(head, rows)}\n{_margin_words(env, results)}\n"


def _margin_words(env: str, results: Results) -> str:
    made = make_env(env)
    provable = made.return_bound(np.zeros((1, made.state_dim), np.float32)) is not None
    made.close()
    tolerance = next(iter(results[0]["followed"].values()))["return_tolerance"]
    margin = (results[0].get("yardstick") or {}).get("bound_margin", tolerance)
    asked = (
        f"{margin:g} more than the provable bound on the return"
        if provable
        else "the return that followed plus the whole range of the data's: no bound is known here"
    )
    return (
        f"AUROC: held-out commands against requests for {asked}. "
        f"A return counts as met within ±{tolerance:g}."
    )


def _data_words(results: Results) -> str:
    data = results[0]["dataset"]
    return (
        f"{data['n_episodes']} episodes, {data['n_transitions']:,} steps: {data['behaviour']}. "
        f"Return {_spread(data['return_mean'], data['return_std'])}, at most "
        f"{number(data['return_max'], 0)}. Each cell: mean return ± half its 95% interval; share "
        "failed.\n"
    )


def _area(results: Results, name: str) -> float:
    return _mean([result["shields"][name]["detection"] for result in results], "auc_roc")


def _alarms(results: Results, name: str) -> tuple[int, int]:
    alarms = [result["shields"][name]["false_alarms"] for result in results]
    return sum(one["count"] for one in alarms), sum(one["n"] for one in alarms)


def _failures(results: Results, guard: str) -> float | None:
    """Share of all commands' episodes that failed; None where nothing can."""
    return _share_failed([c for r in results for c in r["cells"] if c["shield"] == guard])


def _share_failed(cells: Sequence[dict[str, Any]]) -> float | None:
    flags = [flag for cell in cells for flag in cell["crashed"] or ()]
    return float(np.mean(flags)) if flags else None


def _changes(results: Results, name: str) -> tuple[int, int, int]:
    """Commands on which the shield's return is above that of none, below it, and all of them.

    Above and below: the 95% interval of the paired difference, start by start, leaves 0 out.
    """
    pairs = [c["vs_none"] for r in results for c in r["cells"] if c["shield"] == name]
    return sum(p["low"] > 0 for p in pairs), sum(p["high"] < 0 for p in pairs), len(pairs)


def _mean(records: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([np.nan if record[key] is None else record[key] for record in records]))


def _range(values: Sequence[float | None], word: Any) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return word(None)
    low, high = word(min(known)), word(max(known))
    return low if low == high else f"{low} to {high}"


def _spread(mean: float, deviation: float) -> str:
    return f"{number(mean, 0)} ±{number(deviation, 0)}"


def _per_seed(seconds: float, results: Results) -> str:
    return f"{seconds / len(results):.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _typed(options: argparse.Namespace) -> str:
    words = ["python benchmarks/environments.py", "--envs", *options.envs]
    words += ["--seeds", *map(str, options.seeds), "--profile", options.profile]
    return " ".join([*words, *(["--override", *options.override] if options.override else [])])


def _write(page: Path, tables: str) -> None:
    written = page.read_text().partition(_MARK)[0] if page.exists() else "# Environments\n\n"
    page.write_text(f"{written}{_MARK}\n\n{tables}")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--envs", nargs="+", default=list(_ENVS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--out", type=typed_path, default=Path("runs/environments"))
    parser.add_argument("--page", type=typed_path, default=_PAGE)
    parser.add_argument("--override", nargs="*", default=[], help="config overrides of every run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
