"""A table of the report, as texts."""

__all__ = ["ReportTable"]

from typing import NamedTuple


class ReportTable(NamedTuple):
    """A table of texts; the first `n_labels` columns name the row."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_labels: int = 1
