"""The table of part 1."""

__all__ = ["frontier_text", "known_answers", "of_name"]

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from flowshield.evaluation.wording import MISSING, is_known, number
from protocol.aggregate import by_model, label, mean_over_seeds
from protocol.markdown import Table, mean_text, ordered, percent_text
from protocol.results import Results, seeds_of
from protocol.store import Records

_NOTE = (
    "A frontier is compared at up to 12 horizons of every state: mean error in steps of the grid "
    "of returns; share of (state, horizon) within one step; worst of all seeds. Shields learn the "
    "dequantised law (returns with noise of one step), so that even a perfect one misses the exact "
    "frontier by what the last column says; the target holds them to the exact frontier of the law "
    "that they learn."
)


def known_answers(results: Results) -> Table | None:
    """Beside the exact distribution."""
    records, rows = results.of("known"), []
    for env in dict.fromkeys(key.dataset for key in records):
        words = ("excess_nll", "auroc", "auroc_bayes")
        means = [by_model(records, env, itemgetter(word)) for word in words]
        for name in ordered(means[1], results.settings):
            mine = of_name(records, env, name)
            rows.append(
                [
                    env,
                    name,
                    *(mean_text(mean.get(name), 3) for mean in means),
                    frontier_text(mine, "frontier_dequantized"),
                    frontier_text(mine, "frontier"),
                    frontier_text(mine, "frontier_perfect"),
                ]
            )
    head = ["environment", "model", "excess NLL, nats", "AUROC", "AUROC of Bayes"]
    head += ["frontier error, law as learnt", "frontier error", "a perfect model's"]
    title = "Known answers: beside the exact p(H, R | s)"
    return Table(title, head, rows, seeds_of(records), _NOTE) if rows else None


def of_name(records: Records, env: str, name: str) -> list[Mapping[str, Any]]:
    """The records of one model, one a seed."""
    return [r for key, r in records.items() if key.dataset == env and label(key) == name]


def frontier_text(records: Iterable[Mapping[str, Any]], name: str) -> str:
    """Mean error ± over seeds; share within one step; worst of all seeds."""
    records = list(records)
    mean = mean_over_seeds(r.get(f"{name}_error") for r in records)
    if mean is None:
        return MISSING
    within = mean_over_seeds(r.get(f"{name}_within_step") for r in records)
    worst = max(r[f"{name}_error_worst"] for r in records if is_known(r[f"{name}_error_worst"]))
    return f"{mean_text(mean, 2)}; {percent_text(within)}; {number(worst, 2)}"
