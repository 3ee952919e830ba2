"""Films what a shield does for a run's agent: one start, one command, without it and with it."""

__all__ = ["FilmSettings", "film"]

import math
from dataclasses import dataclass
from pathlib import Path

from flowshield.counted import counted
from flowshield.envs import EnvWrapper
from flowshield.errors import ConfigError, UsageError
from flowshield.evaluation.cell_grid import Command
from flowshield.evaluation.film_file import check_format, write_film
from flowshield.evaluation.film_picture import film_picture
from flowshield.evaluation.filmed import FilmedEpisode, film_episode
from flowshield.evaluation.wording import command_words, number, shield_label
from flowshield.paths import expanded
from flowshield.pipeline.run_verdict import run_first_look
from flowshield.pipeline.trained_run import TrainedRun
from flowshield.progress import Reporter


@dataclass(frozen=True)
class FilmSettings:
    """What to film; values out of range raise a UsageError.

    Attributes:
        command: (horizon in steps, return in raw reward), asked for at the start.
        seed: Of the environment's reset, as Gymnasium takes it.
        shield: Name; None = the run's best by its verdict, or its only one.
        out: The file, .gif or .mp4; None = film.gif in the run folder.
        max_mb: The largest file, in 10^6 bytes: pictures are left out until it is no larger.
    """

    command: Command
    seed: int = 0
    shield: str | None = None
    out: str | None = None
    max_mb: float = 10.0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        horizon, target = self.command
        if not (1 <= horizon < math.inf and math.isfinite(target)):
            raise UsageError(
                "command: expected [horizon of at least 1 step, finite return], got "
                f"[{horizon:g},{target:g}]"
            )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"seed: expected a whole number of at least 0, got {self.seed}")
        if not 0 < self.max_mb < math.inf:
            raise UsageError(f"max_mb: expected a number above 0, got {self.max_mb}")
        if self.out is not None:
            check_format(Path(expanded(self.out)))


def film(run: TrainedRun, settings: FilmSettings, reporter: Reporter) -> Path:
    """Plays the two episodes and writes the film.

    Both are those of `run_episode`: the same start, agent and command, nothing added.

    Args:
        run: The run.
        settings: What to film.
        reporter: Where progress goes.

    Returns:
        The file.

    Raises:
        UsageError: There is no such shield.
        ConfigError: The environment gives no pictures here.
    """
    name, why = run.choice(settings.shield)
    shield = run.shield(name)[1]
    agent = run.agent()
    title = f"with the {shield_label(name)} shield"
    env = _env_with_pictures(run)
    reporter.stage("film", f"shield {shield_label(name)} ({why})")
    if caution := run_first_look(run.folder, shield):
        reporter.stage("film", f"caution: {caution}")
    sides = []
    try:
        for shielded in (False, True):
            side = film_episode(
                env,
                agent,
                settings.command,
                shield,
                shielded=shielded,
                seed=settings.seed,
                deterministic=run.config.env.deterministic,
            )
            reporter.stage("film", _told(side, title))
            sides.append(side)
    finally:
        env.close()
    path = run.folder.path / "film.gif" if settings.out is None else Path(expanded(settings.out))
    _write((sides[0], sides[1]), title, path, settings, reporter)
    run.folder.send()
    return path


def _write(
    sides: tuple[FilmedEpisode, FilmedEpisode],
    title: str,
    path: Path,
    settings: FilmSettings,
    reporter: Reporter,
) -> None:
    stride = max(side.stride for side in sides)
    end = max(side.length for side in sides)
    pictures = [film_picture(sides, step, title) for step in [*range(0, end, stride), end]]
    seconds = stride * sides[0].seconds_per_step
    n = write_film(path, pictures, seconds, 1e6 * settings.max_mb)
    told = f"{counted(n, 'picture')} of {counted(end, 'step')}"
    reporter.stage("film", f"wrote {path}: {told}, {path.stat().st_size / 1e6:.1f} MB")


def _told(side: FilmedEpisode, title: str) -> str:
    evaluated = side.evaluated
    text = (
        f"{command_words(evaluated.command)}, {title if side.shielded else 'without a shield'}: "
        f"{side.outcome} after {counted(side.length, 'step')}, "
        f"return {number(evaluated.episode.total_return, side.decimals)}"
    )
    if not side.shielded:
        return text
    return f"{text}; commands replaced: {evaluated.flagged_steps}"


def _env_with_pictures(run: TrainedRun) -> EnvWrapper:
    try:
        return run.make_env(render_mode="rgb_array")
    except UsageError:
        raise
    except Exception as error:  # what draws is loaded here, and foreign
        name = run.config.env.name
        raise ConfigError(f"environment {name!r} cannot be filmed here: {error}") from error
