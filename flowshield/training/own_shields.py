"""Shield types from outside this package."""

__all__ = ["OwnShield", "own_shields", "register_shield"]

from collections.abc import Mapping
from typing import Any

from flowshield.errors import ConfigError
from flowshield.groups import add_shield, added_shields
from flowshield.models import BaseShield

OwnShield = tuple[type[BaseShield], dict[str, Any]]
"""What `register_shield` was called with."""


def register_shield(shield_cls: type[BaseShield], settings: Mapping[str, Any]) -> None:
    """Makes `shield=NAME` choose a shield of one's own, NAME being its `shield_type`.

    From then on, in this process: overrides, configs, `Trainer`, the pipeline's stages and
    `BaseShield.load` know it. Ray's workers get the class with the work.

    Args:
        shield_cls: A subclass of BaseShield with a `shield_type`.
        settings: The arguments of its constructor beside `state_dim`, with the default of each,
            whose type is the type that an override must have; and `learning_rate`, which is the
            training's.

    Raises:
        ConfigError: No such class, no learning rate, or the name belongs to another shield.
    """
    if not (isinstance(shield_cls, type) and issubclass(shield_cls, BaseShield)):
        raise ConfigError(f"register_shield: expected a subclass of BaseShield, got {shield_cls!r}")
    name = shield_cls.shield_type
    if not name.isidentifier():
        raise ConfigError(
            f"register_shield: expected {shield_cls.__name__} to set shield_type to a name such as "
            f"'my_shield', got {name!r}"
        )
    if "learning_rate" not in settings:
        raise ConfigError(
            f"register_shield: the settings of {name!r} need a learning_rate, got {list(settings)}"
        )
    add_shield(name, dict(settings))
    BaseShield.know(shield_cls)


def own_shields() -> list[OwnShield]:
    """Every shield that was registered in this process, to be registered in another one."""
    return [(BaseShield.of_type(name), settings) for name, settings in added_shields().items()]
