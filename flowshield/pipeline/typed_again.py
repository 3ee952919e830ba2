"""What to type to go on with a run in another process."""

__all__ = ["typed_again"]

from omegaconf import DictConfig

from flowshield.envs.registry import env_module
from flowshield.models import BaseShield
from flowshield.overrides import run_command
from flowshield.plugins import PLUGINS, words_for_plugins


def typed_again(config: DictConfig, command: str, run_dir: str, *options: str) -> str:
    """A command on a run's folder, after what tells it of one's own environment and shields.

    Args:
        config: The run's.
        command: Such as "train".
        run_dir: The folder, or its address.
        options: What stands before it, such as "--resume".
    """
    line = run_command(command, run_dir, *options)
    shields = [BaseShield.of_type(str(name)).__module__ for name in config.shield]
    own = [name for name in shields if name.partition(".")[0] != "flowshield"]
    if module := env_module(str(config.env.name)):
        own.insert(0, module)
    words = words_for_plugins(dict.fromkeys(own))
    if words is None:
        return f"{line} with {PLUGINS} naming a module that registers what is your own"
    return " ".join([*words, line])
