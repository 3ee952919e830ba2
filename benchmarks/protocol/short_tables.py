"""What a reader wants first: a few small tables, which the README quotes to the letter."""

__all__ = ["short_behaviour", "short_detection", "short_known", "short_latency"]

from flowshield.evaluation.wording import MISSING, command_label, number, shield_label
from protocol.aggregate import by_model, mean_over_seeds
from protocol.behaviour_tables import cell_records, guards
from protocol.detection_tables import rung_columns
from protocol.known_table import frontier_text, of_name
from protocol.latency_table import paths
from protocol.markdown import Table, mean_text, ordered, percent_text
from protocol.results import Results, seeds_of
from protocol.store import Records

_DISTANCES = (5.0, 10.0, 20.0)


def short_behaviour(results: Results, dataset: str) -> Table | None:
    """Return and crashes, a row a guard."""
    records, commands = results.of("behaviour", dataset), results.settings.commands
    rows = [
        [shield_label(guard), *(_cell(records, guard, command) for command in commands)]
        for guard in guards(results, dataset)
    ]
    head = ["guard", *map(command_label, commands)]
    title = f"In short: {dataset}, return ± t-interval over training seeds, share crashed"
    return Table(title, head, rows, seeds_of(records)) if rows else None


def _cell(records: Records, guard: str, command: tuple[float, float]) -> str:
    mine = cell_records(records, guard, command)
    mean = mean_over_seeds(r["return_mean"] for r in mine)
    crashed = mean_over_seeds(r["crash_rate"] for r in mine)
    return MISSING if mean is None else f"{mean_text(mean, 0)}, {percent_text(crashed, 0)}"


def short_detection(results: Results, dataset: str) -> Table | None:
    """Three rungs and half the horizon, a row a model."""
    records = results.of("detection", dataset)
    columns = [("random", what, d) for what in ("auroc", "detected") for d in _DISTANCES]
    found = rung_columns(records, dataset, [*columns, ("half", "auroc", 0.5)])
    rows = [
        [shield_label(name), *(mean_text(means.get(name), 3) for means in found)]
        for name in ordered(found[0], results.settings)
    ]
    head = ["model", *(f"AUROC d={d:g}" for d in _DISTANCES)]
    head += [*(f"detected d={d:g}" for d in _DISTANCES), "AUROC, half the horizon"]
    title = f"In short: {dataset}, detection of impossible commands at a calibrated 5%"
    return Table(title, head, rows, seeds_of(records)) if rows else None


def short_latency(results: Results) -> Table | None:
    """Milliseconds of one decision, and the error of the density it rests on."""
    records, rows = results.of("latency"), []
    for name, path, record in paths(records):
        times = [record[path][what] for what in ("check", "projection")]
        errors = [record.get(kind) for kind in ("density_error", "density_error_near")]
        solver = record.get("density_error") is not None
        rows.append(
            [
                f"{shield_label(name)}, {path}",
                *(number(time["p50"], 2) if time else MISSING for time in times),
                *(
                    f"{e['median']:.2g}" if e else MISSING if solver else "no solver"
                    for e in errors
                ),
            ]
        )
    head = ["shield", "check p50, ms", "projection p50, ms"]
    head += ["median log-density error, nats", "the same near the threshold"]
    title = "In short: one decision at batch 1 on one CPU thread"
    return Table(title, head, rows, seeds_of(records)) if rows else None


def short_known(results: Results) -> Table | None:
    """Excess likelihood loss, AUROC beside Bayes's, the frontier."""
    records, rows = results.of("known"), []
    for env in dict.fromkeys(key.dataset for key in records):
        excess = by_model(records, env, lambda r: r.get("excess_nll"))
        auroc = by_model(records, env, lambda r: r.get("auroc"))
        bayes = by_model(records, env, lambda r: r.get("auroc_bayes"))
        for name in ordered(auroc, results.settings):
            cells = [mean_text(m.get(name), 3) for m in (excess, auroc, bayes)]
            frontier = frontier_text(of_name(records, env, name), "frontier_dequantized")
            rows.append([shield_label(env), shield_label(name), *cells, frontier])
    head = ["environment", "model", "excess NLL, nats", "AUROC", "AUROC of Bayes"]
    head.append("frontier error in grid steps: mean; share within one; worst")
    title = "In short: known answers"
    return Table(title, head, rows, seeds_of(records)) if rows else None
