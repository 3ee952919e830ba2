"""What the shields must show, beside what they showed."""

__all__ = ["targets_table"]

import operator
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from operator import itemgetter
from typing import Any

from flowshield.counted import counted
from protocol.aggregate import Mean, by_model, mean_over_seeds
from protocol.demands import Target, by_all, by_best, left_out, mean_words, only
from protocol.detection_tables import rung_columns
from protocol.latency_table import paths
from protocol.markdown import Table
from protocol.readings import of_calibration, of_latency, of_search
from protocol.results import Results, seeds_of
from protocol.settings import Settings
from protocol.store import Records

_LEARNT_AUROC = {5.0: 0.985, 10.0: 0.996, 20.0: 0.999}
_LEARNT_DETECTED = {5.0: 0.96, 10.0: 0.99, 20.0: 0.999}
_FLOW, _BY_DENSITY = "flow_matching", ("flow_matching", "diffusion", "mixture")
_FRONTIER = "frontier_dequantized"  # of the law that a shield learns: see `evaluate_known_answer`


def targets_table(results: Results) -> Table | None:
    """Every demand for which something was measured."""
    parts = (_known, _detection, _calibration, _projection, _latency)
    targets = [target for part in parts for target in part(results) if target.found]
    rows = [[t.demand, t.found, "yes" if t.met else "NO"] for t in targets]
    seeds = seeds_of(key for part in _PARTS for key in results.of(part))
    title = "What must be shown (means over the training seeds ± half a 95% t-interval)"
    return Table(title, ["demand", "measured", "met"], rows, seeds, align="---") if rows else None


_PARTS = ("known", "detection", "calibration", "projection", "latency")


# ---------------------------------------------------------------- known answers


def _known(results: Results) -> Iterator[Target]:
    records = results.of("known")
    for env in dict.fromkeys(key.dataset for key in records):
        excess = only(by_model(records, env, lambda r: r.get("excess_nll")), _BY_DENSITY)
        gap = only(by_model(records, env, _gap), _BY_DENSITY)
        yield by_all(f"{env}: excess NLL at most 0.05 nats", excess, lambda v: v <= 0.05)
        yield by_all(f"{env}: AUROC within 0.01 of Bayes (gap)", gap, lambda v: abs(v) <= 0.01)
        yield from _frontier(records, env)


def _gap(record: Mapping[str, Any]) -> float | None:
    bayes, own = record.get("auroc_bayes"), record.get("auroc")
    return None if bayes is None or own is None else bayes - own


def _frontier(records: Records, env: str) -> Iterator[Target]:
    """In the mean over all (state, horizon), and at every one of them."""
    mean = by_model(records, env, lambda r: r.get(f"{_FRONTIER}_error"))
    yield by_all(
        f"{env}: frontier within one grid step of the exact one of the law learnt, mean over "
        "(state, horizon)",
        only(mean, _BY_DENSITY),
        lambda v: v <= 1.0,
    )
    within = by_model(records, env, lambda r: r.get(f"{_FRONTIER}_within_step"))
    worst = {
        name: max(r[f"{_FRONTIER}_error_worst"] for k, r in records.items() if _is(k, env, name))
        for name in only(within, _BY_DENSITY)
    }
    words = ", ".join(
        f"{name} {mean_words(within[name])} of them, worst {far:.3g}" for name, far in worst.items()
    )
    demand = f"{env}: the same at every (state, horizon): share within one step; worst"
    yield Target(demand, words, all(far <= 1.0 for far in worst.values()))


def _is(key: Any, env: str, name: str) -> bool:
    return (key.dataset, key.model) == (env, name)


# ---------------------------------------------------------------- detection


def _detection(results: Results) -> Iterator[Target]:
    records, settings = results.of("detection"), results.settings
    for what, demands in (("auroc", _LEARNT_AUROC), ("detected", _LEARNT_DETECTED)):
        for distance, least in demands.items():
            found = _rung(records, "mixed", "random", distance, what)
            demand = f"mixed, d={distance:g}: best shield's {what} at least {least:g}"
            yield by_best(demand, only(found, settings.shields), least)
    flow = only(_rung(records, "mixed", "random", 5.0, "auroc"), (_FLOW,))
    yield by_best("mixed, d=5: flow matching's auroc at least 0.975", flow, 0.975)
    for dataset in settings.datasets:
        half = only(_rung(records, dataset, "half", 0.5, "auroc"), settings.shields)
        demand = f"{dataset}, half the horizon: best shield's auroc at least 0.975"
        yield by_best(demand, half, 0.975)
        rungs = [("random", d) for d in (10.0, 20.0, 40.0, 80.0)] + [("half", 0.5)]
        for where, distance in rungs:
            found = _rung(records, dataset, where, distance, "auroc")
            yield _beats(f"{dataset}, {where} {distance:g}", found, settings)


def _rung(
    records: Records, dataset: str, where: str, distance: float, what: str
) -> dict[str, Mean]:
    return rung_columns(records, dataset, [(where, what, distance)])[0]


def _beats(rung: str, found: dict[str, Mean], settings: Settings) -> Target:
    learnt, controls = only(found, settings.shields), only(found, settings.controls)
    if not learnt or not controls:
        return Target(rung, "", False)
    worst = min(learnt, key=lambda name: learnt[name].value)
    best = max(controls, key=lambda name: controls[name].value)
    words = f"least of ours {worst} {mean_words(learnt[worst])}, best control {best} "
    met = learnt[worst].value > controls[best].value
    demand = f"{rung}: every learnt shield's auroc above every control's"
    return Target(demand, words + mean_words(controls[best]), met)


# ---------------------------------------------------------------- calibration

_UNITS = {
    "step": "step",
    "step_of_many": "step, further episodes to calibrate on",
    "episode": "episode",
}


def _calibration(results: Results) -> Iterator[Target]:
    """Counts of intervals that hold the nominal rate, beside what chance would leave out.

    Each of them is a 95% interval, so that all of many hold it only by luck. The Clopper-Pearson
    interval is that of the realised rate alone: the luck of the calibration set comes on top. The
    promised band knows of both, and so does the t-interval over seeds, each of which has a split
    and a calibration set of its own. (The levels of one model share their episodes: that chance
    is counted as if they did not.)
    """
    alphas = results.settings.alphas
    for dataset, unit in product(results.settings.datasets, _UNITS):
        records = results.of("calibration", dataset)
        mine = {k: r for k, r in records.items() if k.model in results.settings.shields}
        rows = [row for r in mine.values() for a in alphas if (row := of_calibration(r, unit, a))]
        about = f"{dataset}, per {_UNITS[unit]}: nominal rate within"
        yield left_out(
            f"{about} its Clopper-Pearson interval (shields, seeds, levels)",
            map(bool, map(itemgetter("covered"), rows)),
        )
        yield left_out(
            f"{about} what split-conformal calibration promises (shields, seeds, levels)",
            map(bool, map(itemgetter("promised"), rows)),
        )
        yield left_out(
            f"{about} the t-interval of the mean rate over seeds (shields, levels)",
            _over_seeds(mine, dataset, unit, alphas),
        )


def _over_seeds(
    records: Records, dataset: str, unit: str, alphas: tuple[float, ...]
) -> Iterator[bool]:
    for alpha in alphas:
        rates = by_model(records, dataset, partial(_rate, unit=unit, alpha=alpha))
        for mean in rates.values():
            holds = mean.holds(alpha)
            if holds is not None:
                yield holds


def _rate(record: Mapping[str, Any], unit: str, alpha: float) -> float | None:
    row = of_calibration(record, unit, alpha)
    return row["rate"] if row else None


# ---------------------------------------------------------------- projection and latency


def _projection(results: Results) -> Iterator[Target]:
    for dataset in results.settings.datasets:
        records = results.of("projection", dataset)
        if not records:
            continue
        yield from _counts(dataset, list(records.values()))
        floored = by_model(records, dataset, partial(of_search, word="ratio_floored"))
        near = by_model(records, dataset, partial(of_search, word="within_5_percent"))
        none = sum(s["none_found"] for r in records.values() for s in r["search"].values())
        words = ", ".join(
            f"{name} {mean_words(mean)}, {near[name].value:.1%} of requests within 5%"
            for name, mean in floored.items()
        )
        demand = (
            f"{dataset}: distance within 5% of brute force's (mean of each request's ratio, each "
            f"at least 1; {counted(none, 'request')} left out where brute force found nothing)"
        )
        yield Target(demand, words, all(mean.value <= 1.05 for mean in floored.values()))


def _counts(dataset: str, records: list[Mapping[str, Any]]) -> Iterator[Target]:
    checks = [check for record in records for check in record["requests"].values()]
    n, said, rechecked, same = (
        sum(check[word] for check in checks)
        for word in ("n", "said_supported", "supported", "idempotent")
    )
    yield Target(
        f"{dataset}: every projection rechecks as supported, or said that it found nothing",
        f"{rechecked} of {said}; {n - said} found nothing and said so",
        rechecked == said,
    )
    yield Target(f"{dataset}: projecting twice changes nothing", f"{same} of {n}", same == n)
    bounded = [check for record in records for check in record["with_bound"].values()]
    for words, ones in (("", checks), (" where the environment lends its bound", bounded)):
        over = sum(check["over_bound"] or 0 for check in ones)
        yield Target(f"{dataset}: none above UB(s){words}", f"{over} of {n}", over == 0)
    kept = [record["identity"] for record in records]
    changed = sum(one["n"] - one["unchanged"] for one in kept)
    words = f"{changed} of {sum(one['n'] for one in kept)} changed"
    yield Target(f"{dataset}: supported requests come back unchanged", words, changed == 0)


def _latency(results: Results) -> Iterator[Target]:
    records = results.of("latency")
    for name, what, most in (
        ("quantile", "check", 0.3),
        ("mixture", "check", 0.3),
        (_FLOW, "check", 2.0),
        (_FLOW, "projection", 10.0),
    ):
        for _, path, record in paths({k: r for k, r in records.items() if k.model == name}):
            found = _alone({name: of_latency(record, path, what)})
            demand = f"{what} at batch 1, {path}, p50 at most {most:g} ms"
            yield by_all(demand, found, partial(operator.ge, most))
    for kind, where in (
        ("density_error", "true commands"),
        ("density_error_near", "within 2 nats of the threshold"),
    ):
        errors = {k.model: (r.get(kind) or {}).get("median") for k, r in records.items()}
        demand = f"log-density error, {where}, median under 0.02 nats"
        yield by_all(demand, _alone(errors), lambda v: v < 0.02)


def _alone(found: Mapping[str, float | None]) -> dict[str, Mean]:
    """Values that were measured for one seed only."""
    means = {name: mean_over_seeds([value]) for name, value in found.items()}
    return {name: mean for name, mean in means.items() if mean is not None}
