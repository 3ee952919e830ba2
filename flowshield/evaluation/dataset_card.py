"""What the data are: the record of results.json, and the report's tables of it."""

__all__ = ["dataset_record", "dataset_tables", "return_decimals"]

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.report_table import ReportTable
from flowshield.evaluation.wording import MISSING, decimals_for, number, short_number
from flowshield.models.scale import ReturnScale

_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
# what a dataset says only once it was saved: the run that collected it shall say the same
_OF_THE_FILE = {"format_version", "flowshield_version", "n_episodes", "n_truncated"}


def dataset_record(
    dataset: TrajectoryDataset, parts: Mapping[str, TrajectoryDataset]
) -> dict[str, Any]:
    """What the data are.

    Args:
        dataset: The whole.
        parts: Its split.
    """
    returns, metadata = dataset.episode_returns, dataset.metadata
    kinds = _by_behaviour(dataset)
    scale = ReturnScale.of_commands(dataset.commands)
    return {
        "env": metadata.get("env"),
        "behaviour": ", ".join(f"{k['n_episodes'] / len(returns):.0%} {k['name']}" for k in kinds),
        "seed": metadata.get("seed"),
        "n_episodes": dataset.n_episodes,
        "n_transitions": len(dataset),
        "n_truncated": dataset.n_truncated,
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_max": float(returns.max()),
        "return_spread": scale.spread,
        "return_grid": scale.grid,
        "return_decimals": scale.decimals,
        "length_mean": float(dataset.episode_lengths.mean()),
        "state_dim": dataset.state_dim,
        "action_dim": dataset.action_dim,
        "return_quantiles": _quantiles(returns),
        "length_quantiles": _quantiles(dataset.episode_lengths),
        "behaviours": kinds,
        "metadata": {k: v for k, v in metadata.items() if k not in _OF_THE_FILE},
        "splits": {name: part.n_episodes for name, part in parts.items()},
    }


def dataset_tables(dataset: Mapping[str, Any]) -> tuple[ReportTable, ReportTable]:
    """The card and the behaviours.

    Args:
        dataset: "dataset" of results.json, from `dataset_record`; parts of it may be missing.
    """
    return _card(dataset), _behaviours(dataset)


def return_decimals(dataset: Mapping[str, Any], values: Iterable[float | None]) -> int:
    """Decimals with which returns are written.

    Args:
        dataset: "dataset" of results.json.
        values: Returns whose size tells, where an older release did not record the data's scale.
    """
    found = dataset.get("return_decimals")
    return decimals_for(values) if found is None else int(found)


def _card(dataset: Mapping[str, Any]) -> ReportTable:
    metadata = dataset.get("metadata") or {}
    sizes = tuple(f"{dataset.get(f'{name}_dim', MISSING)}" for name in ("state", "action"))
    splits = ", ".join(f"{n} {name}" for name, n in (dataset.get("splits") or {}).items())
    known = {
        "environment": dataset.get("env"),
        "Gymnasium id": metadata.get("env_id"),
        "arguments": _json(metadata.get("env_kwargs")),
        "step limit": metadata.get("max_episode_steps"),
        "state and action size": None if MISSING in sizes else " and ".join(sizes),
        "seed of the collection": dataset.get("seed"),
        "episodes": dataset.get("n_episodes"),
        "steps": dataset.get("n_transitions"),
        "episodes cut off by the step limit": dataset.get("n_truncated"),
        "returns": _listed(dataset.get("return_quantiles"), dataset),
        "scale of returns": _scale(dataset),
        "lengths, steps": _listed(dataset.get("length_quantiles"), {}),
        "split by episode": splits or None,
        "behaviour": _json(metadata.get("behaviour")),
    }
    rows = tuple((name, str(value)) for name, value in known.items() if value is not None)
    return ReportTable(
        "Dataset card",
        "Returns and lengths: the quantiles at 0, 5, 25, 50, 75, 95 and 100%.",
        ("", "value"),
        rows,
        prose=True,
    )


def _behaviours(dataset: Mapping[str, Any]) -> ReportTable:
    kinds = dataset.get("behaviours") or ()
    decimals = return_decimals(dataset, (kind.get("return_max") for kind in kinds))
    rows = tuple(
        (
            str(kind.get("name", MISSING)),
            str(kind.get("n_episodes", MISSING)),
            *(number(kind.get(f"return_{end}"), decimals) for end in ("mean", "min", "max")),
            number(kind.get("length_mean"), 0),
        )
        for kind in kinds
    )
    header = ("behaviour", "episodes", "mean return", "least", "most", "steps")
    return ReportTable("Behaviours in the data", "", header, rows)


def _by_behaviour(dataset: TrajectoryDataset) -> list[dict[str, Any]]:
    """The behaviours that were drawn, the most frequent first."""
    drawn = np.asarray(dataset.behaviours, dtype=str)
    names, counts = np.unique(drawn, return_counts=True)
    kinds = []
    for i in np.argsort(-counts, kind="stable"):
        returns = dataset.episode_returns[drawn == names[i]]
        kinds.append(
            {
                "name": names[i].replace("_", " ") or "unnamed",
                "n_episodes": int(counts[i]),
                "return_mean": float(returns.mean()),
                "return_min": float(returns.min()),
                "return_max": float(returns.max()),
                "length_mean": float(dataset.episode_lengths[drawn == names[i]].mean()),
            }
        )
    return kinds


def _quantiles(values: NDArray[Any]) -> list[float]:
    return [float(value) for value in np.quantile(values, (0.0, *_LEVELS, 1.0))]


def _listed(quantiles: list[float] | None, dataset: Mapping[str, Any]) -> str | None:
    if not quantiles:
        return None
    decimals = return_decimals(dataset, quantiles)
    return ", ".join(number(value, decimals) for value in quantiles)


def _scale(dataset: Mapping[str, Any]) -> str | None:
    spread, grid = dataset.get("return_spread"), dataset.get("return_grid")
    if spread is None:
        return None
    kind = "no common step" if grid is None else f"multiples of {short_number(grid)}"
    return f"spread {short_number(float(f'{spread:.3g}'))}, {kind}"


def _json(value: Any) -> str | None:
    return json.dumps(value) if value else None
