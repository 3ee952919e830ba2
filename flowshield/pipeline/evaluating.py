"""Stage three: every shield against none on the grid of commands, and the report."""

__all__ = ["evaluate"]

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from flowshield.atomic import atomic_write
from flowshield.counted import counted
from flowshield.data import TrajectoryDataset
from flowshield.evaluation import (
    UNSHIELDED,
    Evaluator,
    Measurement,
    Subjects,
    followed_markdown_table,
    markdown_table,
    write_report,
)
from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.explorer import remove_explorer
from flowshield.evaluation.verdict import judge
from flowshield.evaluation.wording import command_label, number
from flowshield.evaluation.yardstick import Yardstick, margin_text, tolerance_text
from flowshield.json_files import read_json, write_json
from flowshield.models.scale import ReturnScale
from flowshield.pipeline.certifying import guard_record, guarded_subjects
from flowshield.pipeline.dashboard import log_evaluation
from flowshield.pipeline.exploring import ExplorerSettings, write_run_explorer
from flowshield.pipeline.place import place, rollout_workers
from flowshield.pipeline.results import draw_figures, gather_results
from flowshield.pipeline.subjects import evaluator_of, existing_dataset
from flowshield.progress import Reporter
from flowshield.run_folder import RunFolder
from flowshield.training import Trainer

_SETTINGS = {
    "cell": ("n_episodes", "deterministic"),
    "followed": ("n_starts", "n_commands", "return_tolerance", "deterministic", "return_grid"),
    "shield": ("n_states", "bound_margin", "commands"),
}


def evaluate(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    command: str,
    dataset: TrajectoryDataset | None = None,
) -> dict[str, Any]:
    """Measures every shield against none on the grid of commands, and writes the report.

    Args:
        config: From `load_config`.
        folder: Likewise; it holds the trained models.
        reporter: Where progress goes.
        command: What the user typed, for the report.
        dataset: The run's; None = read it.

    Returns:
        The content of results.json.
    """
    dataset = dataset or existing_dataset(config, folder)
    parts = Trainer(config).split(dataset)
    yardstick = Yardstick.of(dataset, config.evaluation)
    subjects = guarded_subjects(config, folder, reporter, dataset)
    _announce(subjects, yardstick, reporter)
    files = _Records(folder, subjects)
    if files.missing():
        remove_explorer(folder.explorer)  # it shows what was measured before
    decimals = ReturnScale.of_commands(dataset.commands).decimals
    with folder.timed("evaluate"):
        measured = _measured(config, files, reporter, subjects, decimals)
    subjects = Evaluator(subjects).subjects  # lends the shields the environment's bound
    with folder.timed("explore"):
        explorer = _explorer(config, folder, reporter, subjects, measured["cells"])
    typed = "\n".join(folder.remember(command))
    measured["guard"] = guard_record(config, folder, subjects, dataset)
    results = gather_results(config, folder, typed, dataset, parts, measured, yardstick)
    write_json(folder.results, results)
    with atomic_write(folder.table) as file:
        tables = (markdown_table(results), followed_markdown_table(results))
        file.write("\n".join(filter(None, tables)).encode())
    figures = draw_figures(results, folder, subjects)
    write_report(folder.report, results, figures, explorer)
    log_evaluation(config, folder, results, figures, subjects)
    folder.send()
    reporter.stage("evaluate", f"wrote {folder.results}, {folder.figures}/ and {folder.report}")
    return results


def _announce(subjects: Subjects, yardstick: Yardstick, reporter: Reporter) -> None:
    shielded = f" and with {', '.join(subjects.guards)}" if subjects.guards else ""
    reporter.stage(
        "evaluate",
        f"{counted(subjects.n_episodes, 'episode')} for each of "
        f"{counted(len(subjects.commands), 'command')} without a shield{shielded}",
    )
    for told in (tolerance_text, margin_text):
        reporter.stage("evaluate", told(yardstick.record()))
    for name, shield in subjects.shields.items():
        promise = f"{name}: {shield.calibration}"
        if promise not in reporter.told:  # the training that went before has said it
            reporter.stage("evaluate", promise)


def _explorer(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    subjects: Subjects,
    cells: list[dict[str, Any]],
) -> str | None:
    """Writes the command explorer unless it is there or not wanted; its name beside the report."""
    settings = ExplorerSettings(**config.evaluation.explorer)
    wanted = settings.n_episodes > 0 and len(subjects.shields) > 0
    if wanted and not folder.explorer.exists():
        verdict = judge(CellGrid.from_cells(cells))
        shields, test = subjects.shields, subjects.test
        write_run_explorer(config, folder, shields, test, settings, reporter, verdict)
    return folder.explorer.name if folder.explorer.exists() else None


def _measured(
    config: DictConfig,
    files: "_Records",
    reporter: Reporter,
    subjects: Subjects,
    decimals: int,
) -> dict[str, Any]:
    """Every record of results.json; what is on file is read, not measured again."""
    missing = len(files.missing())
    if missing:
        with place(config), reporter.bar("measurements", missing) as bar:
            evaluator = evaluator_of(subjects, min(rollout_workers(config), missing))
            try:
                for phase in (files.of_the_unshielded, files.of_the_shields):
                    for measurement, record in evaluator.measure_all(phase()):
                        files.write(measurement, record)
                        bar.advance(_note(measurement, record, decimals))
            finally:
                evaluator.close()
    return files.read()


class _Records:
    """What is to be measured, and the file of each record.

    A record stands with the settings that it was measured by: by others it is measured again.
    """

    def __init__(self, folder: RunFolder, subjects: Subjects) -> None:
        self.folder, self.subjects = folder, subjects
        self.shields, self.commands = subjects.shields, subjects.commands

    def path(self, measurement: Measurement) -> Path:
        kind, (name, *rest) = measurement
        if kind == "cell":
            return self.folder.cell(name, rest[0])
        return self.folder.followed_by(name) if kind == "followed" else self.folder.shield(name)

    def write(self, measurement: Measurement, record: dict[str, Any]) -> None:
        write_json(self.path(measurement), {**record, "settings": self.settings(measurement)})
        self.folder.send()

    def settings(self, measurement: Measurement) -> dict[str, Any]:
        """What a record is measured by; what is None was unknown to older releases."""
        kind, (name, *_) = measurement
        values = {key: _plain(getattr(self.subjects, key)) for key in _SETTINGS[kind]}
        if kind != "shield" and not self.subjects.deterministic:
            values["draws"] = "of each episode by its seed"  # older releases drew for all at once
        if kind == "cell" and name != UNSHIELDED:
            values["guard"] = self.subjects.guards[name].settings()
        return {key: value for key, value in values.items() if value is not None}

    def missing(self) -> list[Measurement]:
        everything = [*self._cells(UNSHIELDED), *self._others()]
        for name in self.subjects.guards:
            everything += self._cells(name)
        return [measurement for measurement in everything if not self._on_file(measurement)]

    def of_the_unshielded(self) -> list[Measurement]:
        """Everything but the shielded cells."""
        return [m for m in self.missing() if m[0] != "cell" or m[1][0] == UNSHIELDED]

    def of_the_shields(self) -> list[Measurement]:
        """The shielded cells, with what they are paired with: the unshielded are on file."""
        return [
            ("cell", (name, command, self._cell(UNSHIELDED, command)["returns"]))
            for kind, (name, *rest) in self.missing()
            for command in rest[:1]
        ]

    def read(self) -> dict[str, Any]:
        """The records as results.json holds them."""
        return {
            "cells": [
                self._cell(guard, command)
                for guard in (UNSHIELDED, *self.subjects.guards)
                for command in self.commands
            ],
            "shields": {name: self._record(("shield", (name,))) for name in self.shields},
            "followed": {name: self._record(("followed", (name,))) for name in self.shields},
        }

    def _on_file(self, measurement: Measurement) -> bool:
        path = self.path(measurement)
        if not path.exists():
            return False
        return bool(read_json(path).get("settings") == self.settings(measurement))

    def _cells(self, guard: str) -> list[Measurement]:
        return [("cell", (guard, command, None)) for command in self.commands]

    def _others(self) -> list[Measurement]:
        return [(kind, (name,)) for name in self.shields for kind in ("followed", "shield")]

    def _cell(self, guard: str, command: tuple[float, float]) -> dict[str, Any]:
        return self._record(("cell", (guard, command, None)))

    def _record(self, measurement: Measurement) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self.path(measurement))
        del record["settings"]
        return record


def _plain(value: Any) -> Any:
    """As JSON reads it again."""
    return [list(command) for command in value] if isinstance(value, list) else value


def _note(measurement: Measurement, record: dict[str, Any], decimals: int) -> str:
    kind, (name, *rest) = measurement
    if kind != "cell":
        return f"{name}: {'commands it supports' if kind == 'followed' else 'detection'}"
    return f"{name} {command_label(rest[0])}: return {number(record['return_mean'], decimals)}"
