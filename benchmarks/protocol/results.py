"""What a call of the benchmark asked for and is on file: what its tables are made from."""

__all__ = ["Results", "asked_for", "seeds_of"]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from protocol.plan import plan
from protocol.schedule import Context
from protocol.settings import PARTS, Settings
from protocol.store import Key, Records


@dataclass(frozen=True)
class Results:
    """The records of a call, whoever made them, and when.

    Attributes:
        settings: Of the call.
        parts: Its records by part.
    """

    settings: Settings
    parts: Mapping[str, Records]

    def of(self, part: str, dataset: str | None = None) -> Records:
        """The records of a part; of one dataset, if it is named."""
        found = self.parts.get(part, {})
        return {k: r for k, r in found.items() if dataset is None or k.dataset == dataset}


def asked_for(context: Context, parts: Sequence[str]) -> Results:
    """What is on file of all that a call with these settings and parts consists of.

    Records of other seeds, datasets, models or commands may lie in the same folder. The command
    line printed below a table must be one that makes it, so that they are left out.
    """
    wanted = {task.key for task in plan(context.settings, parts)}
    on_file = {part: context.store.records(part) for part in ("data", *PARTS)}
    mine = {
        part: {key: record for key, record in records.items() if key in wanted}
        for part, records in on_file.items()
    }
    return Results(context.settings, mine)


def seeds_of(keys: Iterable[Key]) -> tuple[int, ...]:
    """The training seeds of some records, rising."""
    return tuple(sorted({key.seed for key in keys}))
