"""The command explorer: one HTML file in which requests are dragged over the command plane.

It holds what `explorer_grid` computed and computes nothing itself: what it shows for a request is
what the shield said of just that request.
"""

__all__ = ["explorer_payload", "remove_explorer", "write_explorer"]

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowshield.atomic import atomic_write
from flowshield.data import TrajectoryDataset
from flowshield.errors import DataError
from flowshield.evaluation.explorer_grid import (
    FINER,
    Moment,
    Verdicts,
    chosen_episodes,
    explored_moment,
    moment_steps,
)
from flowshield.evaluation.page_template import page_template
from flowshield.evaluation.verdict import Verdict
from flowshield.evaluation.wording import command_label, shield_label
from flowshield.models import BaseShield
from flowshield.models.scale import ReturnScale

FORMAT = 1
_TITLE = b"<title>Command explorer: "  # of explorer.html.j2
_MAP_STEP = 0.25  # nats: the map only colours, verdicts and scores are told exactly


def explorer_payload(
    shields: Mapping[str, BaseShield],
    episodes: TrajectoryDataset,
    commands: Sequence[tuple[float, float]],
    *,
    n_episodes: int = 2,
    n_moments: int = 5,
    n_requests: int = 11,
    title: str = "",
    verdict: Verdict | None = None,
) -> dict[str, Any]:
    """What the explorer holds, fit for JSON. Arrays are base64 of little-endian float32.

    Args:
        shields: Calibrated, by name.
        episodes: Held-out episodes.
        commands: The run's grid, (horizon, return): offered as presets.
        n_episodes: Episodes to pick from, from low returns to high.
        n_moments: Moments of each.
        n_requests: Requests of the grid along each axis, at least 2.
        title: What was evaluated.
        verdict: The evaluation's, if there was one. The explorer opens on its best shield and the
            first command that fails without a shield; where it names none of these, on the last
            shield and the first command.

    Raises:
        DataError: There is no shield, or a number is out of range.
    """
    if not shields:
        raise DataError("expected one shield at least to explore, got none: train one first")
    if min(n_episodes, n_moments) < 1 or n_requests < 2:
        raise DataError(
            "expected at least one episode, one moment and two requests an axis, got "
            f"{n_episodes}, {n_moments} and {n_requests}"
        )
    return {
        "format": FORMAT,
        "title": title,
        "finer": FINER,
        "mapStep": _MAP_STEP,
        "decimals": ReturnScale.of_commands(episodes.commands).decimals + 1,
        "shields": [
            {"name": name, "label": shield_label(name), "score": shield.score_type}
            for name, shield in shields.items()
        ],
        "commands": [command_label(command) for command in commands],
        "opening": _opening(list(shields), commands, verdict),
        "episodes": [
            {
                "return": float(episodes.episode_returns[episode]),
                "length": int(episodes.episode_lengths[episode]),
                "moments": [
                    _moment(explored_moment(shields, episodes, commands, episode, step, n_requests))
                    for step in moment_steps(int(episodes.episode_lengths[episode]), n_moments)
                ],
            }
            for episode in chosen_episodes(episodes, n_episodes)
        ],
    }


def write_explorer(path: str | os.PathLike[str], payload: Mapping[str, Any]) -> None:
    """Writes the explorer; a file that was there stays until the new one is whole.

    Args:
        path: Where to, "explorer.html" as a rule.
        payload: From `explorer_payload`.

    Raises:
        OSError: The file cannot be written.
    """
    html = page_template("explorer.html.j2").render(payload=payload)
    with atomic_write(path) as file:
        file.write(html.encode())


def remove_explorer(path: Path) -> None:
    """Removes an explorer that `write_explorer` wrote; another file of that name stays.

    Args:
        path: The file, there or not.
    """
    try:
        with path.open("rb") as file:
            ours = _TITLE in file.read(4096)
    except OSError:  # none is there
        return
    if ours:
        path.unlink(missing_ok=True)


def _opening(
    names: Sequence[str], commands: Sequence[tuple[float, float]], verdict: Verdict | None
) -> dict[str, int | None]:
    """Places of the shield and the command that are shown first."""
    best = [judged.shield for judged in verdict.shields] if verdict else []
    failures = verdict.failures if verdict else ()
    first = 0 if commands else None
    return {
        "shield": next((names.index(name) for name in best if name in names), len(names) - 1),
        "preset": next((commands.index(c) for c in failures if c in commands), first),
    }


def _moment(moment: Moment) -> dict[str, Any]:
    return {
        "step": moment.step,
        "horizons": moment.horizons.tolist(),
        "returns": moment.returns.tolist(),
        "presets": moment.presets.tolist(),
        "fulfilled": list(moment.fulfilled),
        "bound": moment.bound,
        "shields": [_verdicts(verdicts) for verdicts in moment.shields.values()],
    }


def _verdicts(verdicts: Verdicts) -> dict[str, Any]:
    above = np.floor((verdicts.map - verdicts.threshold) / _MAP_STEP)
    return {
        "threshold": verdicts.threshold,
        "score": _base64(verdicts.score, "<f4"),
        "supported": _base64(verdicts.supported, "u1"),
        "projected": _base64(verdicts.projected, "<f4"),
        "projectedScore": _base64(verdicts.projected_score, "<f4"),
        "found": _base64(verdicts.found, "u1"),
        "map": _base64(np.nan_to_num(above).clip(-127, 127), "i1"),
    }


def _base64(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode()
