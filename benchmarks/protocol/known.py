"""Part 1: environments whose p(H, R | s) is exact."""

__all__ = ["measure"]

from typing import Any

from flowshield.evaluation import evaluate_known_answer
from protocol.contenders import load_shield
from protocol.data import parts_of
from protocol.schedule import Context
from protocol.store import Key


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Excess likelihood loss, AUROC beside Bayes's, error of the frontier."""
    test = parts_of(context, key.dataset, key.seed)["test"]
    n_states = context.settings.n_states
    shield = load_shield(context, key)
    return dict(evaluate_known_answer(shield, test, n_states=n_states, seed=key.seed))
