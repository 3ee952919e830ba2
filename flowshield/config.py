"""Hydra's config groups become one validated config."""

__all__ = [
    "compose",
    "config_dir",
    "config_groups",
    "list_shields",
    "resolve",
    "shield_settings",
]

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowshield.errors import ConfigError, unknown_name
from flowshield.groups import compose_files, config_dir, config_groups, packaged_shields, plain
from flowshield.schema import check_commands, check_key, check_shares, checked_value, flatten


def compose(name: str = "run", overrides: Sequence[str] = ()) -> DictConfig:
    """Composes a packaged config with overrides in Hydra's grammar.

    Args:
        name: File name without `.yaml`: "train", "run", "tune".
        overrides: Such as `shield=quantile`, `seed=1`, `data.n_episodes=500`.

    Returns:
        The validated config, interpolations resolved; reading or setting a misspelt key raises.

    Raises:
        ConfigError: An unknown key, option or config name (near ones listed), bad grammar, a value
            of the wrong type or out of range.
    """
    config = compose_files(name, overrides)
    _fit_return_step(config, {override.partition("=")[0].lstrip("+~") for override in overrides})
    _fill_shields(config)
    return _validated(config, required=_leaves(name))


def resolve(config: DictConfig | Mapping[str, Any] | None) -> DictConfig:
    """Makes whatever the user hands over into a complete, validated config.

    * A file read by `OmegaConf.load` with its `defaults` list still in it is composed against the
      packaged groups, the file's own keys on top.
    * Missing keys are filled from `train.yaml` (keys that only `run.yaml` or `tune.yaml` has, from
      there, as soon as one of them is given).
    * A config composed already comes back equal.

    The config handed over is left as it was.

    Raises:
        ConfigError: As for `compose`, or `config` is not a mapping.
    """
    given = _copied({} if config is None else config)
    said = flatten(plain(given)).keys()
    if "defaults" in given:
        given = compose_files("the config", user=given)
    filled = _filled(given)
    _fit_return_step(filled, said)
    return _validated(filled, required=_leaves("train"))


def list_shields() -> list[str]:
    """Names the shield types that have a group file, sorted."""
    return sorted(packaged_shields())


def shield_settings(config: DictConfig, shield_type: str) -> DictConfig:
    """Looks up one shield's settings: the config's own, else the packaged defaults.

    Raises:
        ConfigError: `shield_type` is neither in `config.shield` nor a group file.
    """
    chosen = config.get("shield") or {}
    packaged = packaged_shields()
    if shield_type not in chosen and shield_type not in packaged:
        raise unknown_name("shield", shield_type, packaged.keys() | chosen.keys())
    return OmegaConf.create(chosen.get(shield_type) or packaged[shield_type])


def _validated(config: DictConfig, required: Mapping[str, Any]) -> DictConfig:
    """Checks keys, then that none is missing, then values; returns a resolved copy."""
    tree = plain(config, resolve=True)
    leaves = flatten(tree)
    known = _known_leaves()
    for key in leaves:
        check_key(key, known)
    for key in required:
        if key not in leaves and not key.startswith("shield."):
            _refuse_absent(key, leaves)
    for key, value in leaves.items():
        if key in known:
            _put(tree, key, checked_value(key, value, known[key]))
        elif value != {}:  # `'shield=[]'` leaves an empty section, which is a choice
            _refuse_absent(key, leaves)
    check_shares(tree["data"]["split"])
    check_commands(tree["env"]["commands"])
    result = OmegaConf.create(tree)
    OmegaConf.set_struct(result, True)
    return result


def _refuse_absent(key: str, leaves: Mapping[str, Any]) -> None:
    """Raises for a key that is missing, or that a value takes the place of."""
    for name, value in leaves.items():
        if key == name or key.startswith(f"{name}."):
            raise ConfigError(f"config key {name!r}: expected a section (a mapping), got {value!r}")
    raise ConfigError(f"config key {key!r} is missing: do not delete it, give it a value")


def _filled(given: DictConfig) -> DictConfig:
    """Puts the user's keys on top of train.yaml's, and of a wider file's where they name some."""
    base = _packaged("train")
    keys = flatten(plain(given)).keys()
    for wider, narrower in (("tune", "run"), ("run", "train")):
        if not keys.isdisjoint(_leaves(wider).keys() - _leaves(narrower).keys()):
            shields = base.shield
            base = _merged(_packaged(wider), base)
            base.shield = shields
            break
    if "shield" in given:
        base.shield = {}
    if "tune.space" in keys:  # what the user searches, and nothing besides
        base.tune.space = {}
    filled = _merged(base, given)
    _fill_shields(filled)
    return filled


def _fit_return_step(config: DictConfig, said: Collection[str]) -> None:
    """An environment that is chosen by its name alone has its own return step, or a derived one.

    Args:
        config: Holds what the group `env` says of another environment.
        said: The keys that the user stated.
    """
    if "env.name" in said and "env.return_step" not in said:
        config.env.return_step = _return_steps().get(str(config.env.name))


@cache
def _return_steps() -> dict[str, float | None]:
    """The return step of every packaged environment, by its name."""
    files = [OmegaConf.load(path) for path in (config_dir() / "env").glob("*.yaml")]
    return {file.name: file.return_step for file in files}


def _fill_shields(config: DictConfig) -> None:
    """Gives every chosen shield the settings that were left out."""
    if "shield" not in config:  # Hydra drops the section for `'shield=[]'`
        config.shield = {}
    if not isinstance(config.shield, DictConfig):
        raise ConfigError(
            "config key 'shield': expected a mapping of shield type to its settings such as "
            f"{{'quantile': {{}}}}, got {config.shield!r}"
        )
    packaged = packaged_shields()
    for shield_type, settings in config.shield.items():
        if shield_type not in packaged:
            raise unknown_name("shield", shield_type, packaged)
        if isinstance(settings, DictConfig):
            config.shield[shield_type] = _merged(packaged[str(shield_type)], settings)


def _known_leaves() -> dict[str, Any]:
    """Every key that any config may hold, with its packaged default."""
    return {**_leaves("tune"), **flatten({"shield": packaged_shields()})}


def _packaged(name: str) -> DictConfig:
    """A packaged config of the caller's own, without overrides and not validated."""
    return deepcopy(_composed(name))


@cache
def _composed(name: str) -> DictConfig:
    # Hydra takes a quarter of a second, and a pipeline asks a dozen times
    return compose_files(name)


@cache
def _leaves(name: str) -> dict[str, Any]:
    return flatten(plain(_composed(name)))


def _copied(config: Any) -> DictConfig:
    if isinstance(config, ListConfig) or not isinstance(config, DictConfig | Mapping):
        raise ConfigError(
            f"expected a config (DictConfig or mapping), got {type(config).__name__}; "
            'read a file with OmegaConf.load("configs/train.yaml")'
        )
    try:
        copy = OmegaConf.create(plain(config) if isinstance(config, DictConfig) else dict(config))
    except OmegaConfBaseException as error:
        raise ConfigError(f"cannot read the config: {str(error).splitlines()[0]}") from error
    defaults = copy.get("defaults")
    if isinstance(defaults, ListConfig) and "_self_" not in defaults:
        defaults.append("_self_")  # what Hydra does too, but with a warning
    return copy


def _merged(base: Any, top: Any) -> DictConfig:
    merged = OmegaConf.merge(base, top)
    if not isinstance(merged, DictConfig):
        raise TypeError(f"expected two mappings, got {type(base)} and {type(top)}")
    return merged


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree[section]
    tree[last] = value
