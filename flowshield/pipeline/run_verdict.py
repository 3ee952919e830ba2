"""The verdict of a run that was evaluated, and how sure it is, read from its folder."""

__all__ = ["run_first_look", "run_verdict"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowshield.errors import FileFormatError
from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.sureness import first_look
from flowshield.evaluation.verdict import Verdict, judge
from flowshield.json_files import read_json
from flowshield.models import BaseShield
from flowshield.run_folder import RunFolder


def run_verdict(folder: RunFolder) -> Verdict | None:
    """Judges the cells of results.json; None where the run was not evaluated.

    Args:
        folder: The run's.

    Raises:
        FileFormatError: The file is none of an evaluation.
    """
    with _read(folder) as content:
        return None if content is None else judge(CellGrid.from_cells(content["cells"]))


def run_first_look(folder: RunFolder, shield: BaseShield) -> str | None:
    """That the run's figures are from too few episodes to decide by; None where they are not.

    Args:
        folder: The run's.
        shield: That of its shields which is spoken of.

    Raises:
        FileFormatError: As `run_verdict`.
    """
    n_calibration = min(shield.calibration_in_force().n)
    with _read(folder) as content:
        return first_look(content, n_calibration)


@contextmanager
def _read(folder: RunFolder) -> Iterator[Any]:
    """The content of results.json, None where there is none, for a body that takes it apart."""
    results = folder.fetched(folder.results)
    content = read_json(results) if results.is_file() else None
    try:
        yield content
    except Exception as error:  # records of another form raise nearly anything
        raise FileFormatError(
            f"{results}: its cells are not those of an evaluation ({error!r}): "
            "evaluate the run again"
        ) from error
