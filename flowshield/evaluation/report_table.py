"""A table of the report, as texts."""

__all__ = ["ReportTable"]

from typing import NamedTuple


class ReportTable(NamedTuple):
    """A table of texts; the first `n_labels` columns name the row.

    `prose`: its cells are words, aligned left, that may break into lines.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_labels: int = 1
    prose: bool = False
