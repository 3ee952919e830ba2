"""A run that was trained, to be asked and filmed; nothing in its folder is changed."""

__all__ = ["TrainedRun"]

from pathlib import Path

from flowshield.envs import EnvWrapper, make_env
from flowshield.errors import FileFormatError, UsageError, unknown_name
from flowshield.evaluation import lend_return_bound
from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.verdict import judge
from flowshield.json_files import read_json
from flowshield.models import BaseShield, UDRLAgent
from flowshield.run_config import read_config
from flowshield.run_folder import RunFolder


class TrainedRun:
    """The config, agent and shields of a run folder, read when they are needed, on the CPU.

    Args:
        place: The folder, or its address on shared storage.

    Attributes:
        folder: Its names.
        config: What the run was composed of.

    Raises:
        UsageError: It is no run folder.
        ConfigError: Its config is not one that this release knows.
    """

    def __init__(self, place: str | Path) -> None:
        self.folder = RunFolder(place)
        if not self.folder.fetched(self.folder.config).is_file():
            raise UsageError(
                f"{place} is no run folder: expected one with a config.yaml in it, as "
                "`flowshield run` leaves it"
            )
        self.config = read_config(self.folder)

    def agent(self) -> UDRLAgent:
        """The policy.

        Raises:
            UsageError: It was not trained.
            FileFormatError: Its file is none of this release.
        """
        return UDRLAgent.load(self._model("agent"))

    def shield(self, name: str | None = None) -> tuple[str, BaseShield]:
        """A shield's name and the shield, lent the environment's bound where the run does so.

        Args:
            name: As in the config; None = the run's best by its verdict, or its only one.

        Raises:
            UsageError: There is none of that name, it was not trained, or nothing says which.
            FileFormatError: Its file is none of this release.
        """
        name = self._best_shield() if name is None else self._known(name)
        shield = BaseShield.load(self._model(name))
        if self.config.calibration.use_return_bound:
            lend_return_bound(shield, self.make_env())
        return name, shield

    def make_env(self, render_mode: str | None = None) -> EnvWrapper:
        """The run's environment, made anew.

        Args:
            render_mode: As Gymnasium's; None = it draws nothing.
        """
        kwargs = dict(self.config.env.kwargs)
        if render_mode is not None:
            kwargs["render_mode"] = render_mode
        return make_env(self.config.env.name, **kwargs)

    def _known(self, name: str) -> str:
        if name not in self.config.shield:
            names = list(map(str, self.config.shield))
            raise UsageError(f"{self.folder.place}: {unknown_name('shield', name, names)}")
        return name

    def _best_shield(self) -> str:
        names = list(map(str, self.config.shield))
        if len(names) == 1:
            return names[0]
        results = self.folder.fetched(self.folder.results)
        verdict = None
        if results.is_file():
            content = read_json(results)
            try:
                verdict = judge(CellGrid.from_cells(content["cells"]))
            except Exception as error:  # records of another form raise nearly anything
                raise FileFormatError(
                    f"{results}: its cells are not those of an evaluation ({error!r}): "
                    "evaluate the run again"
                ) from error
        if verdict is None or not verdict.shields:
            raise UsageError(
                f"{self.folder.place} was not evaluated, so that nothing says which of its "
                f"shields is best: name one of {', '.join(names)}"
                if names
                else f"{self.folder.place} has no shield: it was trained with shield=[]"
            )
        return verdict.shields[0].shield

    def _model(self, name: str) -> Path:
        path = self.folder.fetched(self.folder.model(name))
        if not path.is_file():
            raise UsageError(
                f"{self.folder.place} holds no trained {name}: "
                f"flowshield train run_dir={self.folder.place} makes it"
            )
        return path
