"""Films a trained run's agent without and with a shield."""

__all__ = ["FILM"]

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flowshield.cli.command import Command
from flowshield.progress import Reporter

if TYPE_CHECKING:
    from flowshield.pipeline import FilmSettings

_DESCRIPTION = """\
Films one command from one start, side by side without and with a shield: the same seed, agent and
environment, and nothing added; the agent acts as in the run's evaluation (env.deterministic: by
default with its mean action). Every picture says the command now, whether it is supported, its
score against the threshold, what the agent is given in its place, the return so far and, at the
end, how it ended.

settings:
  'command=[H,R]'    horizon in steps and return in raw reward; must be given
  seed=0             of the environment's reset
  shield=NAME        default: the best by the run's verdict, or its only one
  out=film.gif       or film.mp4, which needs the extra film; default: film.gif in the run folder
  max_mb=10          largest file: pictures are left out until it is no larger"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="see above")


def _film(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    _draw_without_a_screen()
    import torch

    from flowshield.pipeline import TrainedRun, film

    settings = _settings(parsed.settings)
    run = TrainedRun(parsed.run_dir)
    reporter.named = run.folder.named
    torch.set_num_threads(run.config.n_threads)
    film(run, settings, reporter)


def _draw_without_a_screen() -> None:
    """Keeps pygame from looking for a screen, and MuJoCo from one that is not there."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not screen:
        os.environ.setdefault("MUJOCO_GL", "egl")


def _settings(given: "Sequence[str]") -> "FilmSettings":
    """Reads KEY=VALUE words; values are YAML, as in Hydra's overrides."""
    from dataclasses import fields

    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from flowshield.errors import UsageError, unknown_name
    from flowshield.pipeline import FilmSettings

    known = [field.name for field in fields(FilmSettings)]
    for word in given:
        key, _, value = word.partition("=")
        if key not in known:
            raise UsageError(str(unknown_name("film setting", key, known)))
        if not value.strip():
            raise UsageError(
                f"expected {key}=VALUE, got {word!r}: is the shell variable in it set?"
            )
    out = next((_text(word) for word in reversed(given) if word.startswith("out=")), None)
    others = [word for word in given if not word.startswith("out=")]
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist(others))
        assert isinstance(values, dict)
        horizon, target = values["command"]
        command = float(horizon), float(target)
        seed, max_mb = values.get("seed", 0), float(values.get("max_mb", 10))
    except (OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            "expected 'command=[H,R]' with two numbers, seed= and max_mb= with one, such as "
            f"'command=[1000,280]' seed=3; got {' '.join(given) or 'nothing'}"
        ) from error
    shield = None if values.get("shield") is None else str(values["shield"])
    return FilmSettings(command, seed=seed, shield=shield, out=out, max_mb=max_mb)


def _text(word: str) -> str:
    """A path as it stands after the `=`, unless it is quoted as in YAML."""
    value = word.partition("=")[2]
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] in "\"'" else value


FILM = Command(
    "film",
    "film a command side by side without and with a run's shield, as GIF or MP4",
    """\
  flowshield film runs/mine 'command=[1000,280]'
  flowshield film runs/mine 'command=[1000,280]' seed=7 shield=quantile out=quantile.mp4""",
    _film,
    _add_arguments,
)
