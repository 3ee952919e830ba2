"""The table of part 6."""

__all__ = ["latencies", "paths"]

from collections.abc import Iterator, Mapping
from typing import Any

from flowshield.evaluation.wording import MISSING, number
from protocol.markdown import Table
from protocol.results import Results, seeds_of
from protocol.store import Records

_KINDS = ("density_error", "density_error_impossible", "density_error_near")


def latencies(results: Results) -> Table | None:
    """Eager and compiled, a row each, and what the solver's few steps cost in accuracy."""
    records = results.of("latency")
    rows = [
        [
            name,
            path,
            *_quantiles(record[path]["check"]),
            *_quantiles(record[path]["projection"]),
            *(_rate(record["throughput"].get(device)) for device in ("cpu", "cuda")),
            *(_error(record, kind) for kind in _KINDS),
        ]
        for name, path, record in paths(records)
    ]
    head = ["shield", "path", "check p50, ms", "p99", "projection p50, ms", "p99"]
    head += ["checks/s, batch 1024, CPU, eager", "GPU, eager"]
    head += ["log-density error on true commands, nats: median; p95; signed mean"]
    head += ["on commands 20 above UB(s)", "within 2 nats of the threshold"]
    title = "Latency: batch 1, one CPU thread"
    return Table(title, head, rows, seeds_of(records)) if rows else None


def paths(records: Records) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(model, "eager" or "compiled", record) of all that was timed."""
    for key, record in records.items():
        for path in ("eager", "compiled"):
            if record.get(path):
                yield key.model, path, record


def _quantiles(times: Mapping[str, float] | None) -> list[str]:
    if times is None:
        return [MISSING, MISSING]
    return [number(times["p50"], 2), number(times["p99"], 2)]


def _rate(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def _error(record: Mapping[str, Any], kind: str) -> str:
    """An error that the compiled path shares: it is the same computation."""
    if record.get("density_error") is None:
        return "no solver"
    error = record.get(kind)
    if error is None:
        return MISSING
    signed = error.get("signed_mean")
    signed_text = MISSING if signed is None else f"{signed:+.2g}".replace("-", "−")
    return f"{error['median']:.2g}; {error['p95']:.2g}; {signed_text}"
