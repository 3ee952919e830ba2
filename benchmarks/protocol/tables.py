"""Results as tables in Markdown."""

__all__ = ["all_tables"]

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from flowshield.evaluation.wording import command_label, number, percent
from protocol.aggregate import Mean, by_model, mean_over_seeds, paired_returns
from protocol.behaviour import command_name
from protocol.readings import of_rung
from protocol.rungs import DISTANCES, FACTORS
from protocol.settings import Settings
from protocol.store import Key, Store
from protocol.targets import targets_table

_MISSING = "–"
Records = dict[Key, dict[str, Any]]


def all_tables(settings: Settings, store: Store, source: str) -> str:
    """Every table for which there are results, each with the line that says where it is from."""
    records = {part: store.records(part) for part in _PARTS}
    known = records["known"]
    texts = [_known(known)] if known else []
    for dataset in settings.datasets:
        texts += [
            _models(records, settings, dataset),
            *(
                _rungs(records["detection"], settings, dataset, where)
                for where in ("random", "start", "tight", "half")
            ),
            _calibration(records["calibration"], settings, dataset),
            _groups(records["calibration"], settings, dataset),
            _projection(records["projection"], settings, dataset),
            _behaviour(records["behaviour"], settings, dataset),
            _differences(records["behaviour"], settings, dataset),
        ]
    texts += [_latency(records["latency"]), targets_table(settings, store)]
    return "\n".join(f"{text}\n{source}\n" for text in texts if text)


_PARTS = ("train", "detection", "calibration", "projection", "behaviour", "latency", "known")


# ---------------------------------------------------------------- models and detection


def _models(records: dict[str, Records], settings: Settings, dataset: str) -> str:
    """Training and held-out likelihood, the latter also as paired differences to the best."""
    detection, train = records["detection"], records["train"]
    nll = by_model(detection, dataset, _nll)
    if not nll:
        return ""
    best = min(nll, key=lambda name: nll[name].value)
    seconds = by_model(train, dataset, lambda r: r.get("training_seconds"))
    best_at = by_model(train, dataset, lambda r: r.get("best_share"))
    rows = [
        [
            name,
            _plain(seconds.get(name), 0),
            _percent(best_at.get(name)),
            _mean(nll[name], 3),
            _paired_nll(detection, dataset, name, best),
        ]
        for name in _ordered(nll, settings)
    ]
    head = [
        "model",
        "training s",
        "best weights after",
        "test NLL, raw nats",
        f"less {best}'s, paired",
    ]
    return _table(f"{dataset}: held-out likelihood of dequantised commands", head, rows)


def _nll(record: Mapping[str, Any]) -> float | None:
    rows = record.get("nll_rows")
    return None if rows is None else float(np.mean(rows))


def _paired_nll(detection: Records, dataset: str, name: str, best: str) -> str:
    """Mean over seeds of the mean difference on the same rows, and its t-interval."""
    if name == best:
        return "0"
    differences = []
    for key, record in detection.items():
        other = detection.get(key._replace(model=best))
        if (key.dataset, key.model, key.detail) == (dataset, name, "") and other:
            rows = np.subtract(record["nll_rows"], other["nll_rows"])
            differences.append(float(rows.mean()))
    return _mean(mean_over_seeds(differences), 3)


_PLACES = {
    "random": "random test states",
    "start": "starts of test episodes",
    "tight": "test states whose true slack UB - R is under 10",
    "half": "starts of test episodes above 250, the same return in a share of the horizon",
}


def _rungs(detection: Records, settings: Settings, dataset: str, where: str) -> str:
    """AUROC and detection at the calibrated 5%, a column a rung."""
    distances = FACTORS if where == "half" else DISTANCES
    columns = [("auroc", d) for d in distances] + [("detected", d) for d in distances]
    found = {
        (what, d): by_model(
            detection, dataset, partial(of_rung, where=where, distance=d, what=what)
        )
        for what, d in columns
    }
    present = found[columns[0]]
    if not present:
        return ""
    alarms = by_model(detection, dataset, lambda r: of_rung(r, where, distances[0], "false_alarms"))
    size = mean_over_seeds(
        of_rung(r, where, distances[0], "n") for k, r in detection.items() if k.dataset == dataset
    )
    rows = [
        [
            name,
            *(_mean(found["auroc", d].get(name), 3) for d in distances),
            *(_mean(found["detected", d].get(name), 3) for d in distances),
            _percent(alarms.get(name)),
        ]
        for name in _ordered(present, settings)
    ]
    signs = [f"{d:g} H" if where == "half" else f"d={d:g}" for d in distances]
    head = ["model", *(f"AUROC {sign}" for sign in signs)]
    head += [*(f"detected {sign}" for sign in signs), "true commands flagged"]
    title = f"{dataset}: detection at {_PLACES[where]} ({_plain(size, 0)} a seed)"
    return _table(title, head, rows)


# ---------------------------------------------------------------- calibration and projection


def _calibration(records: Records, settings: Settings, dataset: str) -> str:
    """Realised rates with the intervals of all seeds, and how many seeds kept the promise."""
    rows = []
    for name in _ordered({k.model for k in records if k.dataset == dataset}, settings):
        mine = [r for k, r in records.items() if (k.dataset, k.model) == (dataset, name)]
        for unit, words in _UNITS.items():
            rows.append([name, words])
            for alpha in settings.alphas:
                rows[-1].append(_rates([_row_of(m, unit, alpha) for m in mine]))
            starts = mean_over_seeds(m["starts"]["rate"] for m in mine)
            rows[-1].append(_percent(starts) if unit == "step" else "")
    head = ["model", "alarm unit", *(f"nominal {percent(a)}" for a in settings.alphas)]
    title = (
        f"{dataset}: realised false alarms on fresh episodes, a seed each (Clopper-Pearson 95%); "
        "in how many seeds the nominal rate lies in it; in how many the count is within what "
        "split-conformal calibration promises (95%, beta-binomial)"
    )
    return _table(title, [*head, "initial states at 5% a step"], rows) if rows else ""


_UNITS = {"step": "one random step", "episode": "whole episode"}


def _row_of(record: Mapping[str, Any], unit: str, alpha: float) -> Mapping[str, Any] | None:
    """The row of one threshold for all states."""
    for row in record["rows"]:
        if (row["unit"], row["groups"], row["alpha"]) == (unit, 1, alpha):
            return dict(row)
    return None


def _groups(records: Records, settings: Settings, dataset: str) -> str:
    """Realised rates in groups of states: one threshold for all beside one each."""
    rows = []
    for name in _ordered({k.model for k in records if k.dataset == dataset}, settings):
        mine = [r for k, r in records.items() if (k.dataset, k.model) == (dataset, name)]
        grouped = [row for m in mine for row in m["rows"] if row["groups"] > 1]
        for unit, words in _UNITS.items():
            for shared in (True, False) if grouped else ():
                rows.append([name, words, "one for all" if shared else "one each"])
                for alpha in settings.alphas:
                    wanted = (unit, shared, alpha)
                    rows[-1].append(_spread([r for r in grouped if _about(r) == wanted]))
    head = ["model", "alarm unit", "threshold", *(f"nominal {percent(a)}" for a in settings.alphas)]
    title = (
        f"{dataset}: realised false alarms by group of states: least and greatest over groups and "
        "seeds; how many of them are within what split-conformal calibration promises (95%)"
    )
    return _table(title, head, rows) if rows else ""


def _about(row: Mapping[str, Any]) -> tuple[str, bool, float]:
    return row["unit"], row["shared"], row["alpha"]


def _spread(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return _MISSING
    rates, kept = [row["rate"] for row in rows], sum(bool(row["promised"]) for row in rows)
    return f"{percent(min(rates), 1)} to {percent(max(rates), 1)}; {kept}/{len(rows)}"


def _rates(rows: Sequence[Mapping[str, Any] | None]) -> str:
    known = [row for row in rows if row]
    if not known:
        return _MISSING
    each = "; ".join(
        f"{percent(r['rate'], 1)} ({percent(r['low'], 1)} to {percent(r['high'], 1)})"
        for r in known
    )
    covered, kept = (sum(bool(r[word]) for r in known) for word in ("covered", "promised"))
    return f"{each}; {covered}/{len(known)}; {kept}/{len(known)}"


def _projection(records: Records, settings: Settings, dataset: str) -> str:
    rows = []
    for name in _ordered({k.model for k in records if k.dataset == dataset}, settings):
        mine = [r for k, r in records.items() if (k.dataset, k.model) == (dataset, name)]
        for kind in mine[0]["requests"]:
            checks = [m["requests"][kind] for m in mine]
            bounded = [m["with_bound"][kind] for m in mine]
            searches = [m["search"][kind] for m in mine]
            rows.append(
                [
                    name,
                    kind,
                    _sum(checks, "n"),
                    _sum(checks, "supported"),
                    _sum(checks, "over_bound"),
                    f"{_sum(bounded, 'supported')}; {_sum(bounded, 'over_bound')}",
                    _sum(checks, "idempotent"),
                    f"{_sum([m['identity'] for m in mine], 'unchanged')}/"
                    f"{_sum([m['identity'] for m in mine], 'n')}",
                    *(
                        _mean(mean_over_seeds(s[word] for s in searches), 3)
                        for word in ("ratio", "ratio_p50", "ratio_p95", "within_5_percent")
                    ),
                    _sum(searches, "n"),
                ]
            )
    head = ["shield", "requests", "n", "recheck as supported", "above UB(s)"]
    head += ["bound lent: recheck; above UB(s)", "idempotent"]
    head += ["supported requests unchanged", "mean distance / brute force's", "its median", "p95"]
    head += ["share within 5%", "compared"]
    return _table(f"{dataset}: projection, all seeds together", head, rows) if rows else ""


def _sum(records: Iterable[Mapping[str, Any]], word: str) -> str:
    values = [record[word] for record in records if record[word] is not None]
    return str(sum(values)) if values else _MISSING


# ---------------------------------------------------------------- behaviour and latency


def _behaviour(records: Records, settings: Settings, dataset: str) -> str:
    """Return, worst 5%, crashes and achieved minus commanded, mean over the training seeds."""
    rows = []
    for guard in _guards(records, settings, dataset):
        cells = [_cell(records, dataset, guard, command) for command in settings.commands]
        rows.append([guard, *cells])
    head = ["guard", *map(command_label, settings.commands)]
    title = (
        f"{dataset}: mean return ± t-interval over training seeds; mean of the worst 5%; crashes; "
        "achieved minus commanded"
    )
    return _table(title, head, rows) if rows else ""


def _cell(records: Records, dataset: str, guard: str, command: tuple[float, float]) -> str:
    mine = _mine(records, dataset, guard, command)
    if not mine:
        return _MISSING
    mean = mean_over_seeds(r["return_mean"] for r in mine)
    worst = mean_over_seeds(r["worst_5_percent"] for r in mine)
    crashed = mean_over_seeds(r["crash_rate"] for r in mine)
    assert mean is not None
    return (
        f"{_mean(mean, 0)}; {_plain(worst, 0)}; {_percent(crashed)}; "
        f"{number(mean.value - command[1], 0)}"
    )


def _differences(records: Records, settings: Settings, dataset: str) -> str:
    """Paired with the unguarded agent at the same starts."""
    rows = []
    for guard in _guards(records, settings, dataset):
        if guard == "none":
            continue
        intervals = [
            paired_returns(records, dataset, guard, command_name(command))
            for command in settings.commands
        ]
        texts = [
            f"{number(i.mean, 0)} ({number(i.low, 0)} to {number(i.high, 0)})" if i else _MISSING
            for i in intervals
        ]
        rows.append([guard, *texts])
    head = ["guard", *map(command_label, settings.commands)]
    title = (
        f"{dataset}: return less the unguarded agent's at the same starts (95% bootstrap over "
        "starts, training seeds averaged first)"
    )
    return _table(title, head, rows) if rows else ""


def _guards(records: Records, settings: Settings, dataset: str) -> list[str]:
    here = {k.model for k in records if k.dataset == dataset}
    return [guard for guard in settings.guards if guard in here]


def _mine(
    records: Records, dataset: str, guard: str, command: tuple[float, float]
) -> list[dict[str, Any]]:
    wanted = (dataset, guard, command_name(command))
    return [r for k, r in records.items() if (k.dataset, k.model, k.detail) == wanted]


def _latency(records: Records) -> str:
    rows = []
    for key, record in records.items():
        for path in ("eager", "compiled"):
            if not record.get(path):
                continue
            rows.append(
                [
                    f"{key.model}, {path}" if record.get("compiled") else key.model,
                    *_quantiles(record[path]["check"]),
                    *_quantiles(record[path]["projection"]),
                    *(_rate(record["throughput"].get(device)) for device in ("cpu", "cuda")),
                    *_error(record["density_error"]),
                ]
            )
    head = ["shield", "check p50, ms", "p99", "projection p50, ms", "p99"]
    head += ["checks/s, batch 1024, CPU", "GPU"]
    head += ["log-density error, median, nats", "p95"]
    return _table("Latency: batch 1, one CPU thread", head, rows) if rows else ""


def _quantiles(times: Mapping[str, float] | None) -> list[str]:
    if times is None:
        return [_MISSING, _MISSING]
    return [number(times["p50"], 2), number(times["p99"], 2)]


def _rate(value: float | None) -> str:
    return _MISSING if value is None else f"{value:,.0f}"


def _error(error: Mapping[str, float] | None) -> list[str]:
    if error is None:
        return ["no solver", ""]
    return [f"{error['median']:.2g}", f"{error['p95']:.2g}"]


def _known(records: Records) -> str:
    rows = []
    for env in dict.fromkeys(key.dataset for key in records):
        words = ("excess_nll", "auroc", "auroc_bayes", "frontier_error")
        means = {w: by_model(records, env, itemgetter(w)) for w in words}
        for name in means["auroc"]:
            rows.append([env, name, *(_mean(means[w].get(name), 3) for w in words)])
    head = ["environment", "model", "excess NLL, nats", "AUROC", "AUROC of Bayes"]
    title = "Known answers: beside the exact p(H, R | s)"
    return _table(title, [*head, "frontier error, grid steps"], rows)


# ---------------------------------------------------------------- wording


def _ordered(models: Iterable[str], settings: Settings) -> list[str]:
    """Ours first, then peers, then controls."""
    order = [*settings.shields, *settings.peers, *settings.controls]
    there = list(models)
    place = {name: i for i, name in enumerate(order)}
    return sorted(there, key=lambda name: (place.get(name.split(" ")[0], len(order)), name))


def _mean(mean: Mean | None, decimals: int) -> str:
    if mean is None:
        return _MISSING
    text = number(mean.value, decimals)
    if math.isnan(mean.half_width):
        return text
    return f"{text} ±{number(mean.half_width, decimals)}"


def _plain(mean: Mean | None, decimals: int) -> str:
    return _MISSING if mean is None else number(mean.value, decimals)


def _percent(mean: Mean | None) -> str:
    return _MISSING if mean is None else percent(mean.value, 1)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return f"### {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
