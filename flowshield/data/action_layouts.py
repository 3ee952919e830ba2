"""Discrete actions in the layouts in which people save them."""

__all__ = ["recognised_actions"]

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.data.array_checks import MOST_ACTIONS


def recognised_actions(
    actions: ArrayLike, facts: dict[str, Any], *, columns: bool = True
) -> tuple[ArrayLike, dict[str, Any]]:
    """Finds out whether actions are discrete where nobody says so.

    They are where each is a whole number of at least 0, in whatever type, or a row with a single 1
    (one-hot). Bounds say that they are not, and n_actions that they are.

    Args:
        actions: [N], [N, 1] or [N, n].
        facts: What is known: "n_actions", or "action_low" and "action_high", or neither.
        columns: Whether a column [N, 1] of whole floats is discrete, too.

    Returns:
        The actions, as whole numbers [N, 1] where they are discrete, and the facts; "n_actions" and
        "n_actions_from", in words, are among these where they were found out.
    """
    try:
        values = np.asarray(actions)
    except ValueError:  # rows of several lengths, which are told where shapes are checked
        return actions, facts
    if not values.size or values.dtype.kind not in "biuf" or "action_low" in facts:
        return actions, facts
    said = facts.get("n_actions")
    if values.ndim == 2 and _one_hot(values) and said in (None, values.shape[1]):
        found = {} if said else {"n_actions": values.shape[1], "n_actions_from": "one-hot rows"}
        return values.argmax(axis=1)[:, None], {**facts, **found}
    column = values.ndim == 2 and values.shape[1] == 1
    told_apart = values.dtype.kind != "f" or values.ndim == 1 or (column and columns)
    if said is None and (column or values.ndim == 1) and told_apart and _whole(values):
        found = {"n_actions": max(2, int(values.max()) + 1), "n_actions_from": "the highest action"}
        return values.astype(np.int64).reshape(-1, 1), {**facts, **found}
    return actions, facts


def _one_hot(rows: NDArray[Any]) -> bool:
    """Whether every row has a single 1, and not all in the same place."""
    if rows.shape[1] < 2 or not all(np.isin(some, (0, 1)).all() for some in (rows[:100], rows)):
        return False  # nearly always the first hundred say so
    return bool((rows.sum(axis=1) == 1).all() and (rows.sum(axis=0) > 0).sum() > 1)


def _whole(values: NDArray[Any]) -> bool:
    """Whether all are whole numbers from 0 to what an agent can choose from."""
    # of NaN and infinity, which are not; and of that bound in float16, where it is infinity
    with np.errstate(invalid="ignore", over="ignore"):
        whole = (values >= 0) & (values < MOST_ACTIONS) & (values % 1 == 0)
    # floats that are all alike tell nothing: a brake that was never touched is 0.0
    return bool(whole.all() and (values.dtype.kind != "f" or values.min() < values.max()))
