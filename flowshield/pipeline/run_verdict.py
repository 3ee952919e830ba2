"""The verdict of a run that was evaluated, read from its folder."""

__all__ = ["run_verdict"]

from flowshield.errors import FileFormatError
from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.verdict import Verdict, judge
from flowshield.json_files import read_json
from flowshield.run_folder import RunFolder


def run_verdict(folder: RunFolder) -> Verdict | None:
    """Judges the cells of results.json; None where the run was not evaluated.

    Args:
        folder: The run's.

    Raises:
        FileFormatError: The file is none of an evaluation.
    """
    results = folder.fetched(folder.results)
    if not results.is_file():
        return None
    content = read_json(results)
    try:
        return judge(CellGrid.from_cells(content["cells"]))
    except Exception as error:  # records of another form raise nearly anything
        raise FileFormatError(
            f"{results}: its cells are not those of an evaluation ({error!r}): "
            "evaluate the run again"
        ) from error
