"""All tables of the benchmark, in the order in which they are read."""

__all__ = ["all_tables"]

from collections.abc import Iterator

from protocol import behaviour_tables, calibration_tables, detection_tables, short_tables
from protocol.known_table import known_answers
from protocol.latency_table import latencies
from protocol.markdown import Table
from protocol.projection_table import projections
from protocol.results import Results
from protocol.targets import targets_table


def all_tables(results: Results, command: str, machine: str) -> str:
    """Every table for which there are results, each with the line that says where it is from.

    Args:
        results: What the call asked for and is on file.
        command: The call.
        machine: The machine and versions, in words.
    """
    tables = [*_short(results), targets_table(results), known_answers(results)]
    for dataset in results.settings.datasets:
        tables += _of_dataset(results, dataset)
    tables.append(latencies(results))
    return "\n".join(table.text(command, machine) for table in tables if table)


def _short(results: Results) -> Iterator[Table | None]:
    for dataset in results.settings.datasets:
        yield short_tables.short_behaviour(results, dataset)
    for dataset in results.settings.datasets:
        yield short_tables.short_detection(results, dataset)
    yield short_tables.short_latency(results)
    yield short_tables.short_known(results)


def _of_dataset(results: Results, dataset: str) -> Iterator[Table | None]:
    yield detection_tables.likelihoods(results, dataset)
    for where in detection_tables.PLACES:
        yield detection_tables.rungs(results, dataset, where)
    yield calibration_tables.by_seed(results, dataset)
    yield calibration_tables.over_seeds(results, dataset)
    yield calibration_tables.by_group(results, dataset)
    yield projections(results, dataset)
    yield behaviour_tables.behaviour(results, dataset)
    yield behaviour_tables.differences(results, dataset)
