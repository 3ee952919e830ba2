"""A run that was trained, to be asked and filmed; nothing in its folder is changed."""

__all__ = ["ShieldChoice", "TrainedRun"]

from pathlib import Path
from typing import NamedTuple

import gymnasium

from flowshield.counted import counted
from flowshield.envs import EnvWrapper, list_envs, make_env
from flowshield.errors import ConfigError, UsageError, unknown_name
from flowshield.evaluation import Certificate, lend_return_bound
from flowshield.evaluation.certifying import certified_guard
from flowshield.evaluation.verdict import Verdict
from flowshield.json_files import read_json
from flowshield.models import BaseShield, Guard, OutcomeModel, SupportGuard, UDRLAgent
from flowshield.pipeline.run_verdict import run_verdict
from flowshield.pipeline.typed_again import typed_again
from flowshield.run_config import read_config
from flowshield.run_folder import RunFolder
from flowshield.shell import command_line


class ShieldChoice(NamedTuple):
    """Which of a run's shields, and why that one, in a few words."""

    name: str
    why: str


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
        try:
            self.folder = RunFolder(place)
        except ConfigError as error:  # an empty path, or an address of no known kind
            raise UsageError(str(error)) from error
        if not self.folder.fetched(self.folder.config).is_file():
            meant = str(place).removeprefix("run_dir=")
            hint = f"; did you mean {command_line(meant)}?" if meant != str(place) else ""
            raise UsageError(
                f"{place} is no run folder: expected one with a config.yaml in it, as "
                f"`flowshield run` leaves it{hint}"
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
            name: As in the config; None = that of `choice`.

        Raises:
            UsageError: There is none of that name, it was not trained, or nothing says which.
            FileFormatError: Its file is none of this release.
        """
        name = self.choice(name).name
        shield = BaseShield.load(self._model(name))
        if self.config.calibration.use_return_bound:
            lend_return_bound(shield, self.make_env())
        return name, shield

    def guard(self, name: str | None = None) -> Guard | None:
        """What acts with a shield, as the run's config says and its certificate allows.

        Args:
            name: Of the shield, as in the config; None = that of `choice`.

        Returns:
            None where the config says none.

        Raises:
            UsageError: There is no such shield, or the run was not probed and certified.
            FileFormatError: A file is none of this release.
        """
        name, shield = self.shield(name)
        settings = self.config.guard
        if settings.kind == "none":
            return None
        if settings.kind == "support":
            return SupportGuard(shield, name)
        return certified_guard(
            self.certificate(name),
            shield,
            self.outcome(),
            every=settings.every,
            n_candidates=settings.n_candidates,
            projection=settings.projection,
            name=name,
        )

    def certificate(self, name: str) -> Certificate:
        """What is certified of a shield's outcome guard.

        Raises:
            UsageError: The run was not certified.
            FileFormatError: The file is none of this release.
        """
        path = self.folder.fetched(self.folder.certificate(name))
        if not path.is_file():
            raise UsageError(
                f"{self.folder.place} holds no certificate of {name}: "
                f"{typed_again(self.config, 'certify', self.folder.place)} makes it, and "
                "guard.kind=support needs none"
            )
        return Certificate.from_json(read_json(path)["certificate"])

    def outcome(self) -> OutcomeModel:
        """What the agent gets under a command.

        Raises:
            UsageError: The run was not probed.
            FileFormatError: Its file is none of this release.
        """
        path = self.folder.fetched(self.folder.model("outcome"))
        if not path.is_file():
            raise UsageError(
                f"{self.folder.place} was not probed: "
                f"{typed_again(self.config, 'probe', self.folder.place)} learns what its agent does"
            )
        return OutcomeModel.load(path)

    def choice(self, name: str | None = None) -> ShieldChoice:
        """The shield of that name; without one the first of the run's verdict, or its only one.

        Raises:
            UsageError: There is none of that name, none was trained, or nothing says which.
            FileFormatError: The run's results are not of this release.
        """
        names = list(map(str, self.config.shield))
        if name is not None:
            if name not in names:
                raise UsageError(f"{self.folder.place}: {unknown_name('shield', name, names)}")
            return ShieldChoice(name, "named")
        if not names:
            raise UsageError(f"{self.folder.place} has no shield: it was trained with 'shield=[]'")
        self._model(names[0])
        if len(names) == 1:
            return ShieldChoice(names[0], "the run's only one")
        verdict = run_verdict(self.folder)
        if verdict is None or not verdict.shields:
            raise UsageError(
                f"{self.folder.place} was not evaluated, so that nothing says which of its "
                f"shields is best: name one of {', '.join(names)}"
            )
        return ShieldChoice(verdict.shields[0].shield, _why(verdict))

    def make_env(self, render_mode: str | None = None) -> EnvWrapper:
        """The run's environment, made anew.

        Args:
            render_mode: As Gymnasium's; None = it draws nothing.

        Raises:
            UsageError: It is unknown here.
            ConfigError: It cannot be made, or does not take its arguments.
        """
        kwargs = dict(self.config.env.kwargs)
        if render_mode is not None:
            kwargs["render_mode"] = render_mode
        try:
            return make_env(self.config.env.name, **kwargs)
        except ConfigError as error:
            if self.config.env.name in {*list_envs(), *gymnasium.registry}:
                raise
            raise UsageError(str(error)) from error

    def _model(self, name: str) -> Path:
        path = self.folder.fetched(self.folder.model(name))
        if not path.is_file():
            raise UsageError(
                f"{self.folder.place} holds no trained {name}: "
                f"{typed_again(self.config, 'train', self.folder.place)} makes it"
            )
        return path


def _why(verdict: Verdict) -> str:
    others = "name another to ask it"
    if not verdict.failures:
        return f"of {len(verdict.shields)}, by its returns: there is no failure to fix; {others}"
    total = len(verdict.failures)
    if not verdict.best:
        unsure = " beyond chance" if verdict.shields[0].unsure else ""
        return f"of {len(verdict.shields)}, none of which fixes a failure{unsure}; {others}"
    fixed = f"fixes {len(verdict.best[0].fixed)} of {counted(total, 'failure')}"
    if len(verdict.best) == 1:
        return f"the run's best: {fixed}"
    return f"one of {len(verdict.best)} that are best alike: {fixed}"
