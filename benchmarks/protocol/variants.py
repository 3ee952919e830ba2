"""One setting changed at a time: what it does to a shield, on validation episodes."""

__all__ = ["SHIPPED", "VARIANTS", "measure", "variants_table"]

import math
from typing import Any

import numpy as np
import torch

from flowshield.evaluation import auc_roc
from flowshield.evaluation.shield import shield_scores
from flowshield.models import BaseShield
from flowshield.training import Trainer
from protocol.aggregate import mean_over_seeds
from protocol.data import collection, config_for, parts_of
from protocol.rungs import questions
from protocol.schedule import Context
from protocol.store import Key, Store

SHIPPED = "as shipped"
_RUNGS = (("random", 5.0), ("random", 10.0), ("random", 20.0), ("half", 0.5))
_NOISE_SEED = 7

_OPTIMISER = {
    "learning rate 5e-4": ("{}.learning_rate=5e-4",),
    "learning rate 2e-3": ("{}.learning_rate=2e-3",),
    "no moving average": ("optimizer.ema_decay=null",),
    "moving average .999": ("optimizer.ema_decay=0.999",),
    "no weight decay": ("optimizer.weight_decay=0",),
    "weight decay .1": ("optimizer.weight_decay=0.1",),
    "half the epochs": ("shield_epochs=4",),
    "twice the epochs": ("shield_epochs=16",),
}
_WIDTH = {"hidden width 128": ("{}.hidden_dim=128",)}
_MIXTURE = {
    "no dropout": ("{}.dropout=0",),
    "dropout .1": ("{}.dropout=0.1",),
    "1 component": ("{}.n_components=1",),
    "8 components": ("{}.n_components=8",),
}
_FIELD = {"field width 128": ("{}.field_dim=128",)}
_TIMES = {
    "cosine schedule": ("{}.beta_schedule=cosine",),
    "quadratic schedule": ("{}.beta_schedule=quadratic",),
}

VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "flow_matching": {SHIPPED: (), **_OPTIMISER, **_WIDTH, **_MIXTURE, **_FIELD},
    "diffusion": {SHIPPED: (), **_TIMES},
    "mixture": {SHIPPED: (), **_WIDTH, **_MIXTURE},
    "quantile": {SHIPPED: (), **_WIDTH, "dropout .05": ("{}.dropout=0.05",)},
}
"""Hydra overrides by shield and by the name of the variant; {} stands for the shield's group."""


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Trains a variant and judges it on the validation episodes."""
    overrides = [o.format(f"shield.{key.model}") for o in VARIANTS[key.model][key.detail]]
    config = config_for(context, key.dataset, key.seed, overrides)
    trainer = Trainer(config, checkpoint_dir=_folder(context, key), resume=True)
    shield = trainer.train_shield(collection(context, key.dataset), key.model)
    shield.save(context.store.model(key.dataset, key.seed, _file(key)))
    result = trainer.results[key.model]
    return {
        "training_seconds": sum(record["seconds"] for record in result.history),
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        **_judged(context, key, shield),
    }


def _folder(context: Context, key: Key) -> Any:
    return context.folder / "checkpoints" / str(key.seed) / _file(key)


def _file(key: Key) -> str:
    return f"{key.model} {key.detail}".replace(" ", "_")


@torch.no_grad()
def _judged(context: Context, key: Key, shield: BaseShield) -> dict[str, Any]:
    part = parts_of(context, key.dataset, key.seed)["validation"]
    rungs = questions(part, context.settings.n_states, key.seed)
    steps = rungs[0].steps
    rng = np.random.default_rng(_NOISE_SEED)
    noise = np.stack([rng.uniform(-0.5, 0.5, len(steps)), rng.normal(size=len(steps))], axis=1)
    commands = part.commands[steps] + noise.astype(np.float32)
    found = {"nll": -float(shield_scores(shield, part.states[steps], commands).mean())}
    for rung in rungs:
        if (rung.where, rung.distance) in _RUNGS:
            true = shield_scores(shield, part.states[rung.steps], part.commands[rung.steps])
            impossible = shield_scores(shield, part.states[rung.steps], rung.commands)
            found[_column(rung.where, rung.distance)] = auc_roc(-impossible, -true)
    return found


def _column(where: str, distance: float) -> str:
    return f"AUROC d={distance:g}" if where == "random" else f"AUROC {distance:g} H"


def variants_table(store: Store) -> str:
    """Every variant on file, means over its seeds, in Markdown."""
    records = store.records("variant")
    columns = ["nll", *(_column(*rung) for rung in _RUNGS), "training_seconds", "best_epoch"]
    lines = [
        "### One setting changed at a time, on validation episodes of the mixed data",
        "",
        "| shield | variant | NLL, raw nats | " + " | ".join(columns[1:-2]) + " | s | best epoch |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    for shield, variants in VARIANTS.items():
        for name in variants:
            rows = [r for k, r in records.items() if (k.model, k.detail) == (shield, name)]
            if rows:
                cells = [_cell(column, [row.get(column) for row in rows]) for column in columns]
                lines.append(f"| {shield} | {name} | " + " | ".join(cells) + " |")
    seeds = sorted({key.seed for key in records})
    return "\n".join(
        [*lines, "", f"Means over training seeds {seeds}; each has its own split.", ""]
    )


def _cell(column: str, values: list[float | None]) -> str:
    mean = mean_over_seeds(values)
    if mean is None:
        return ""
    decimals = {"nll": 3, "training_seconds": 0, "best_epoch": 0}.get(column, 4)
    known = decimals > 0 and math.isfinite(mean.half_width)  # one seed has no spread
    return f"{mean.value:.{decimals}f}" + (f" ±{mean.half_width:.{decimals}f}" if known else "")
