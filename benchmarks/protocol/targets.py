"""What the shields must show, beside what they showed."""

__all__ = ["targets_table"]

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from protocol.aggregate import Mean, Records, by_model, mean_over_seeds
from protocol.readings import of_latency, of_rung
from protocol.settings import Settings
from protocol.store import Store

_LEARNT_AUROC = {5.0: 0.985, 10.0: 0.996, 20.0: 0.999}
_LEARNT_DETECTED = {5.0: 0.96, 10.0: 0.99, 20.0: 0.999}
_FLOW, _BY_DENSITY = "flow_matching", ("flow_matching", "diffusion", "mixture")


class Target(NamedTuple):
    """One demand.

    Attributes:
        demand: What is asked for.
        found: What was measured; empty where nothing was.
        met: Whether that is enough.
    """

    demand: str
    found: str
    met: bool


def targets_table(settings: Settings, store: Store) -> str:
    """Every demand for which something was measured, as a table in Markdown."""
    parts = (_known, _detection, _calibration, _projection, _latency)
    targets = [target for part in parts for target in part(settings, store) if target.found]
    if not targets:
        return ""
    lines = "".join(f"| {t.demand} | {t.found} | {'yes' if t.met else 'NO'} |\n" for t in targets)
    head = "### What must be shown (means over the training seeds)\n\n"
    return f"{head}| demand | measured | met |\n| --- | --- | --- |\n{lines}"


def _known(settings: Settings, store: Store) -> Iterator[Target]:
    records = store.records("known")
    for env in dict.fromkeys(key.dataset for key in records):
        excess = by_model(records, env, lambda r: r.get("excess_nll"))
        gap = by_model(records, env, lambda r: _difference(r.get("auroc_bayes"), r.get("auroc")))
        frontier = by_model(records, env, lambda r: r.get("frontier_error"))
        excess, gap, frontier = (_only(found, _BY_DENSITY) for found in (excess, gap, frontier))
        yield _all(f"{env}: excess NLL at most 0.05 nats", excess, lambda v: v <= 0.05)
        yield _all(f"{env}: AUROC within 0.01 of Bayes (gap)", gap, lambda v: abs(v) <= 0.01)
        if env == "gridworld":
            demand = f"{env}: frontier within one grid step"
            yield _all(demand, frontier, lambda v: v <= 1.0)


def _detection(settings: Settings, store: Store) -> Iterator[Target]:
    records = store.records("detection")
    if "mixed" in {key.dataset for key in records}:
        for what, demands in (("auroc", _LEARNT_AUROC), ("detected", _LEARNT_DETECTED)):
            for distance, least in demands.items():
                found = _rung(records, "mixed", "random", distance, what)
                demand = f"mixed, d={distance:g}: best shield's {what} at least {least:g}"
                yield _best(demand, _only(found, settings.shields), least)
        flow = _only(_rung(records, "mixed", "random", 5.0, "auroc"), (_FLOW,))
        yield _best("mixed, d=5: flow matching's auroc at least 0.975", flow, 0.975)
    for dataset in settings.datasets:
        half = _only(_rung(records, dataset, "half", 0.5, "auroc"), settings.shields)
        yield _best(f"{dataset}, half the horizon: best shield's auroc at least 0.975", half, 0.975)
        rungs = [("random", d) for d in (10.0, 20.0, 40.0, 80.0)] + [("half", 0.5)]
        for where, distance in rungs:
            found = _rung(records, dataset, where, distance, "auroc")
            yield _beats(f"{dataset}, {where} {distance:g}", found, settings)


def _rung(
    records: Records, dataset: str, where: str, distance: float, what: str
) -> dict[str, Mean]:
    return by_model(records, dataset, partial(of_rung, where=where, distance=distance, what=what))


def _beats(rung: str, found: dict[str, Mean], settings: Settings) -> Target:
    learnt, controls = _only(found, settings.shields), _only(found, settings.controls)
    if not learnt or not controls:
        return Target(rung, "", False)
    worst = min(learnt, key=lambda name: learnt[name].value)
    best = max(controls, key=lambda name: controls[name].value)
    words = f"least of ours {worst} {_number(learnt[worst])}, best control {best} "
    met = learnt[worst].value > controls[best].value
    demand = f"{rung}: every learnt shield's auroc above every control's"
    return Target(demand, words + _number(controls[best]), met)


def _calibration(settings: Settings, store: Store) -> Iterator[Target]:
    """The nominal rate within the interval of the rate over all seeds' fresh episodes."""
    records = store.records("calibration")
    for dataset in settings.datasets:
        for unit in ("step", "episode"):
            rows = [
                (key.model, row)
                for key, record in records.items()
                if key.dataset == dataset and key.model in settings.shields
                for row in record["rows"]
                if (row["unit"], row["groups"]) == (unit, 1)
            ]
            covered, kept = (sum(bool(r[w]) for _, r in rows) for w in ("covered", "promised"))
            found = f"{covered} of {len(rows)}; within the promised band {kept} of {len(rows)}"
            demand = (
                f"{dataset}, per {unit}: nominal rate within its Clopper-Pearson interval, every "
                "shield, seed and level"
            )
            yield Target(demand, found if rows else "", covered == len(rows))


def _projection(settings: Settings, store: Store) -> Iterator[Target]:
    records = store.records("projection")
    for dataset in settings.datasets:
        mine = [r for k, r in records.items() if k.dataset == dataset]
        checks = [check for record in mine for check in record["requests"].values()]
        if not checks:
            continue
        n = sum(check["n"] for check in checks)
        for word, demand in (
            ("supported", "every projection rechecks as supported"),
            ("idempotent", "projecting twice changes nothing"),
        ):
            count = sum(check[word] for check in checks)
            yield Target(f"{dataset}: {demand}", f"{count} of {n}", count == n)
        bounded = [check for record in mine for check in record["with_bound"].values()]
        for words, ones in (("", checks), (" where the environment lends its bound", bounded)):
            over = sum(check["over_bound"] or 0 for check in ones)
            yield Target(f"{dataset}: none above UB(s){words}", f"{over} of {n}", over == 0)
        same = [record["identity"] for record in mine]
        changed = sum(one["n"] - one["unchanged"] for one in same)
        total = sum(one["n"] for one in same)
        words = f"{changed} of {total} changed"
        yield Target(f"{dataset}: supported requests come back unchanged", words, changed == 0)
        ratios = by_model(records, dataset, _ratio)
        demand = f"{dataset}: mean distance within 5% of brute force"
        yield _all(demand, ratios, lambda v: v <= 1.05)


def _ratio(record: object) -> float | None:
    searches = record["search"].values()  # type: ignore[index]
    mean = mean_over_seeds(search["ratio"] for search in searches)
    return None if mean is None else mean.value


def _latency(settings: Settings, store: Store) -> Iterator[Target]:
    records = store.records("latency")
    for name, what, most in (
        ("quantile", "check", 0.3),
        ("mixture", "check", 0.3),
        (_FLOW, "check", 2.0),
        (_FLOW, "projection", 10.0),
    ):
        found = _alone(
            {k.model: of_latency(r, what) for k, r in records.items() if k.model == name}
        )
        yield _all(f"{what} at batch 1, p50 at most {most:g} ms", found, partial(operator.ge, most))
    errors = _alone(
        {k.model: (r.get("density_error") or {}).get("median") for k, r in records.items()}
    )
    yield _all("log-density error, median under 0.02 nats", errors, lambda v: v < 0.02)


# ---------------------------------------------------------------- wording


def _only(found: dict[str, Mean], names: tuple[str, ...]) -> dict[str, Mean]:
    """Those of these names, whatever the score they judge by."""
    return {name: mean for name, mean in found.items() if name.split(" ")[0] in names}


def _best(demand: str, found: dict[str, Mean], least: float) -> Target:
    if not found:
        return Target(demand, "", False)
    name = max(found, key=lambda one: found[one].value)
    return Target(demand, f"{name} {_number(found[name])}", found[name].value >= least)


def _all(demand: str, found: dict[str, Mean], holds: Callable[[float], bool]) -> Target:
    words = ", ".join(f"{name} {_number(mean)}" for name, mean in found.items())
    return Target(demand, words, all(holds(mean.value) for mean in found.values()))


def _alone(found: dict[str, float | None]) -> dict[str, Mean]:
    """Values that were measured for one seed only."""
    means = {name: mean_over_seeds([value]) for name, value in found.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _number(mean: Mean) -> str:
    return f"{mean.value:.4g}"
