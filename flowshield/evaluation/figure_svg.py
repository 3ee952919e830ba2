"""Figures as SVG that is sharp at any size and turns dark with the page it is on."""

__all__ = ["DARK", "figure_svg"]

import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

# What each colour of the figures becomes on a dark page. Colours that are not named stay.
DARK = {
    "#000000": "#e6e9ec",  # ink
    "#ffffff": "#1d2126",  # paper
    "#dddddd": "#363d45",  # lines between columns
    "#e6e6e6": "#31373e",  # grids
    "#cccccc": "#4a525b",
    "#4d4d4d": "#c3c9cf",  # no shield
    "#444444": "#b9c0c7",  # data
    "#0072b2": "#56b4e9",
    "#d55e00": "#ff8a3d",
    "#009e73": "#35cfa2",
    "#cc79a7": "#eba3cb",
    "#aa3377": "#f07fbb",
    # the command plane, from far below the threshold to far above it
    "#e9c9ae": "#3f2614",
    "#f0d9c5": "#36261b",
    "#f5e6d8": "#2e2621",
    "#faf2ea": "#272524",
    "#d3e5f2": "#1f3a52",
    "#a5cbe6": "#22557d",
    "#6fabd6": "#2773ab",
    "#3d88c0": "#3b93d6",
}
_COLOR = re.compile(r"#[0-9a-f]{6}\b")
_HEAD = re.compile(r"\A.*?(?=<svg )", re.DOTALL)  # XML and document type: of a file of its own


def figure_svg(figure: Figure) -> str:
    """The figure as one SVG element with letters as outlines, which needs no font.

    Its colours follow `prefers-color-scheme`, its own paper included, so that it stays legible
    where a viewer does not pass the page's scheme on.

    Args:
        figure: Drawn in the light colours.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "flowshield"}):
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    svg = _HEAD.sub("", buffer.getvalue())
    used = sorted({*_COLOR.findall(svg), "#000000"} & DARK.keys())
    svg = _COLOR.sub(lambda found: _themed(found.group()), svg)
    start = svg.index(">") + 1
    return f"{svg[:start]}<style>{_rules(used)}</style>{svg[start:]}"


def _themed(color: str) -> str:
    return f"var({_name(color)})" if color in DARK else color


def _name(color: str) -> str:
    return f"--c{color[1:]}"


def _rules(used: list[str]) -> str:
    light = ";".join(f"{_name(color)}:{color}" for color in used)
    dark = ";".join(f"{_name(color)}:{DARK[color]}" for color in used)
    # matplotlib leaves black unsaid
    return (
        f"svg{{{light};fill:var({_name('#000000')})}}"
        f"@media screen and (prefers-color-scheme:dark){{svg{{{dark}}}}}"
    )
