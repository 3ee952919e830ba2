"""How sure an evaluation is: what its few episodes and its one training seed leave open."""

__all__ = ["first_look", "sureness_finding"]

from collections.abc import Mapping
from typing import Any

from flowshield.counted import counted
from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.finding import Finding
from flowshield.evaluation.statistics import clopper_pearson
from flowshield.evaluation.wording import MISSING, is_known, percent

_FEW = 0.1  # episodes are few where none of them crashed and more than this may
_FIRST_LOOK = "a first look, nothing to decide by"
_FEW_CALIBRATED = 100  # at 5%, a hundred leave the realised rate between 1.6% and 10%


def sureness_finding(results: Mapping[str, Any], grid: CellGrid) -> Finding:
    """What so few episodes and one training seed leave open.

    Args:
        results: The content of results.json; of its dataset the sizes of the parts are read.
        grid: Its cells.
    """
    question = "How sure is that?"
    counts = [cell["n_episodes"] for cell in grid if cell.get("n_episodes")]
    if not counts:
        return Finding(question, "unknown", "how many episodes there were was not recorded")
    n = min(counts)
    missed = clopper_pearson(0, n)[1]
    splits = (results.get("dataset") or {}).get("splits") or {}
    test, calibration = splits.get("test"), splits.get("calibration")
    few = missed > _FEW or (calibration is not None and calibration < _FEW_CALIBRATED)
    told = f"{_FIRST_LOOK}: " if few else ""
    crashes = ""
    if any(is_known(cell.get("crash_rate")) for cell in grid):
        crashes = f"No crash in {n} leaves up to {percent(missed, 1)} possible. "
    set_by = counted(calibration or MISSING, "episode")
    detail = (
        f"{crashes}False alarms are set by {set_by} and counted on "
        f"{test or MISSING}. The intervals are "
        "about more episodes of these very models: another seed trains others, whose returns may "
        "lie outside (run again with another seed= and run_dir=)."
    )
    calibrated = f", {calibration} to calibrate by" if calibration else ""
    answer = f"{told}{counted(n, 'episode')} a cell{calibrated}, one training seed"
    return Finding(question, answer, detail, "bad" if few else "plain")


def first_look(results: Mapping[str, Any] | None, n_calibration: int) -> str | None:
    """That a run's figures are from too few episodes to decide by; None where they are not.

    Args:
        results: The content of its results.json; None = it was not evaluated.
        n_calibration: Episodes that set the threshold of the shield in question.
    """
    grid = CellGrid.from_cells((results or {}).get("cells") or [])
    found = sureness_finding(results or {}, grid)
    if found.tone == "bad":
        return found.answer
    if found.answer != "unknown" or n_calibration >= _FEW_CALIBRATED:
        return None
    evaluated = "" if results else ", not evaluated"
    return f"{_FIRST_LOOK}: {counted(n_calibration, 'episode')} to calibrate by{evaluated}"
