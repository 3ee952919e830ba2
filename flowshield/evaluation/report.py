"""One self-contained HTML file that says what was found, first in six lines, then in full.

Everything in it is read from results.json; nothing is fetched when it is opened.
"""

__all__ = ["render_report", "write_report"]

import base64
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from flowshield.atomic import atomic_write
from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.figure_svg import figure_svg
from flowshield.evaluation.page_template import page_template
from flowshield.evaluation.report_sections import FIGURES, report_sections
from flowshield.evaluation.summary import summarize
from flowshield.evaluation.wording import MISSING, number


class _Picture(NamedTuple):
    caption: str
    data: str
    width: int


def write_report(
    path: str | os.PathLike[str],
    results: Mapping[str, Any],
    figures: Mapping[str, Figure],
    explorer: str | None = None,
) -> None:
    """Writes the report; a file that was there stays until the new one is whole.

    Args:
        path: Where to, "report.html" as a rule.
        results: The content of results.json. Parts may be missing: they show as dashes or not
            at all.
        figures: By name: those of `report_sections.FIGURES` stand in their sections, others come
            last with their name for a caption.
        explorer: Address of the command explorer, relative to the report, if there is one.

    Raises:
        DataError: Two cells share shield and command, or a cell has neither.
        OSError: The file cannot be written.
    """
    html = render_report(results, figures, explorer).encode()
    with atomic_write(path) as file:
        file.write(html)


def render_report(
    results: Mapping[str, Any], figures: Mapping[str, Figure], explorer: str | None = None
) -> str:
    """The report as text; see `write_report`.

    Raises:
        DataError: Two cells share shield and command, or a cell has neither.
    """
    grid = CellGrid.from_cells(results.get("cells") or [])
    return page_template("report.html.j2").render(
        title=f"flowshield on {(results.get('dataset') or {}).get('env', 'unknown data')}",
        summary=summarize(results, grid),
        sections=report_sections(results, grid, figures),
        figures={name: _picture(name, figure) for name, figure in figures.items()},
        explorer=explorer,
        command=results.get("command") or MISSING,
        config_yaml=results.get("config_yaml") or "",
        versions=results.get("versions") or {},
        machine=results.get("machine") or MISSING,
        seconds={k: f"{number(v, 1)} s" for k, v in (results.get("seconds") or {}).items()},
    )


def _picture(name: str, figure: Figure) -> _Picture:
    """The figure in base64, and the CSS pixels that show it in its own size.

    As a picture of its own, and not as an element of the page: then no name in it can clash with
    one in another figure, and nothing that stands in it can run.
    """
    data = base64.b64encode(figure_svg(figure).encode()).decode()
    return _Picture(FIGURES.get(name, name), data, round(96 * figure.get_figwidth()))
