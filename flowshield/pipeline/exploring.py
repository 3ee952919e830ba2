"""Writes a run's command explorer: explorer.html beside its report."""

__all__ = ["ExplorerSettings", "explore", "write_run_explorer"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from flowshield.counted import counted
from flowshield.data import TrajectoryDataset
from flowshield.data.storage import dataset_exists
from flowshield.errors import UsageError
from flowshield.evaluation.explorer import explorer_payload, write_explorer
from flowshield.evaluation.verdict import Verdict
from flowshield.models import BaseShield
from flowshield.pipeline.collecting import dataset_path
from flowshield.pipeline.run_verdict import run_verdict
from flowshield.pipeline.trained_run import TrainedRun
from flowshield.progress import Reporter
from flowshield.run_folder import RunFolder
from flowshield.training import Trainer


@dataclass(frozen=True)
class ExplorerSettings:
    """How much there is to explore.

    Attributes:
        n_episodes: Held-out episodes to pick from, from low returns to high.
        n_moments: Moments of each.
        n_requests: Requests along each axis of the plane.
    """

    n_episodes: int = 2
    n_moments: int = 5
    n_requests: int = 11

    def check(self) -> None:
        """Refuses numbers out of range.

        Raises:
            UsageError: A number is out of range.
        """
        for name, least in (("n_episodes", 1), ("n_moments", 1), ("n_requests", 2)):
            if getattr(self, name) < least:
                what, given = name.removeprefix("n_"), getattr(self, name)
                raise UsageError(f"{what}: expected at least {least}, got {given}")


def explore(run: TrainedRun, settings: ExplorerSettings, reporter: Reporter) -> Path:
    """Asks every shield of a run, and writes the explorer.

    Args:
        run: The run.
        settings: How much there is to explore.
        reporter: Where progress goes.

    Returns:
        The file.

    Raises:
        UsageError: The run has no dataset or no shield, or a number is out of range.
        FileFormatError: Its results.json is none of an evaluation.
    """
    settings.check()
    names = list(map(str, run.config.shield))
    if not names:
        raise UsageError(f"{run.folder.place} has no shield: it was trained with 'shield=[]'")
    shields = dict(run.shield(name) for name in names)
    path = dataset_path(run.config, run.folder)
    if isinstance(path, Path):
        path = run.folder.fetched(path)
    if not dataset_exists(path):
        raise UsageError(f"{run.folder.place}: no dataset at {path}, whose episodes are explored")
    test = Trainer(run.config).split(TrajectoryDataset(path))["test"]
    verdict = run_verdict(run.folder)
    return write_run_explorer(run.config, run.folder, shields, test, settings, reporter, verdict)


def write_run_explorer(
    config: DictConfig,
    folder: RunFolder,
    shields: Mapping[str, BaseShield],
    test: TrajectoryDataset,
    settings: ExplorerSettings,
    reporter: Reporter,
    verdict: Verdict | None,
) -> Path:
    """Writes the explorer of shields that are loaded, on held-out episodes that are read."""
    reporter.stage(
        "explore",
        f"{settings.n_requests} x {settings.n_requests} requests at "
        f"{counted(settings.n_moments, 'moment')} of "
        f"{counted(settings.n_episodes, 'held-out episode')}, asked of {', '.join(shields)}",
    )
    payload = explorer_payload(
        shields,
        test,
        [(float(horizon), float(target)) for horizon, target in config.env.commands],
        n_episodes=settings.n_episodes,
        n_moments=settings.n_moments,
        n_requests=settings.n_requests,
        title=f"flowshield on {config.env.name}",
        verdict=verdict,
    )
    write_explorer(folder.explorer, payload)
    folder.send()
    reporter.stage("explore", f"wrote {folder.explorer}")
    return folder.explorer
