"""What a sweep searches: domains of config keys, and the config that a draw from them makes."""

__all__ = ["Domain", "as_overrides", "most_epochs", "n_trials", "read_space", "trial_config"]

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from omegaconf import DictConfig

from flowshield.config import list_shields, resolve, shield_settings
from flowshield.errors import ConfigError, unknown_name
from flowshield.groups import plain
from flowshield.schema import check_key, checked_value, flatten

_LISTS: Final = ("grid", "choice")
_RANGES: Final = ("uniform", "loguniform", "randint")
_KINDS: Final = (*_LISTS, *_RANGES)

# Keys that a sweep over shields does not search, and why.
_FIXED: Final[dict[str, str]] = {
    "learning_rate": "it is the agent's, and a sweep trains shields: search shield.learning_rate",
    "n_epochs": "it is the agent's, and a sweep trains shields: search shield_epochs",
    "model.*": "it is the agent's, and a sweep trains shields: search keys of shield",
    "seed": "it decides the split of the episodes, which all trials share",
    "data.n_episodes": "all trials share one dataset, or they could not be compared",
    "data.path": "all trials share one dataset, or they could not be compared",
    "data.split.*": "all trials share one split, or they could not be compared",
    "env.*": "all trials share one dataset, or they could not be compared",
    "behaviour.*": "all trials share one dataset, or they could not be compared",
    "evaluation.*": "it is part of the yardstick by which trials are compared",
    "calibration.alpha": "it is part of the yardstick by which trials are compared",
    "calibration.unit": "it is part of the yardstick by which trials are compared",
    "calibration.use_return_bound": "no trial reads it",
    "projection.*": "the score of a sweep does not see it",
    "tune.*": "it is the sweep's own",
    "run_dir": "it says where a run goes",
    "log_dir": "it says where a run goes",
    "use_wandb": "it changes nothing about a shield",
    "checkpoint_every": "it changes nothing about a shield",
    "device": "it says where a trial runs",
    "n_threads": "it says where a trial runs",
    "num_workers": "it says where a trial runs",
    "cuda_graph": "it says how a trial runs",
    "ray.*": "it says where a trial runs",
}


@dataclass(frozen=True)
class Domain:
    """What one config key is drawn from.

    Attributes:
        key: Dotted, as `trial_config` takes it.
        kind: "grid", "choice", "uniform", "loguniform" or "randint".
        values: Those of a grid or choice; of a range its two ends, which belong to it.
    """

    key: str
    kind: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        """As the config has it, on one line."""
        values = ", ".join(
            "null" if v is None else f"{v:g}" if _is_number(v) else str(v) for v in self.values
        )
        return f"{self.key}: {self.kind} [{values}]"


def read_space(config: DictConfig) -> list[Domain]:
    """Reads and checks the config's `tune.space`.

    Args:
        config: From `compose("tune")`.

    Returns:
        The domains, that of `shield` (the type) first: always there, if need be as a grid of one.

    Raises:
        ConfigError: A key is unknown or nothing to search, a domain is malformed, or a value is not
            one that the key may have.
    """
    found = dict(_domains(plain(config.tune.space)))
    types = found.pop("shield", None) or Domain("shield", "grid", tuple(config.shield))
    if types.kind not in _LISTS or not types.values:
        raise ConfigError(
            "tune.space.shield: expected a grid or choice of shield types, such as "
            f"'tune.space.shield={{grid:[quantile,mixture]}}', got {types}"
        )
    for name in types.values:
        if name not in list_shields():
            raise unknown_name("shield in tune.space.shield", name, list_shields())
    return [types, *(_checked(domain, config, types.values) for domain in found.values())]


def most_epochs(config: DictConfig, space: Sequence[Domain]) -> int:
    """Epochs of the longest trial, where they are searched too."""
    searched = [int(max(domain.values)) for domain in space if domain.key == "shield_epochs"]
    return max(searched, default=int(config.shield_epochs))


def n_trials(space: Sequence[Domain], n_samples: int, search: str) -> int:
    """How many trials a sweep has.

    Args:
        space: From `read_space`.
        n_samples: The config's `tune.n_samples`.
        search: The config's `tune.search`: with "optuna" a grid is a choice like others.
    """
    grids = [len(domain.values) for domain in space if domain.kind == "grid"]
    return n_samples if search == "optuna" else n_samples * math.prod(grids)


def trial_config(config: DictConfig, parameters: Mapping[str, Any]) -> DictConfig:
    """The config that trains one trial's shield: complete, and without the sweep.

    Args:
        config: From `compose("tune")`.
        parameters: A value for the key of each domain.

    Raises:
        ConfigError: The values do not go together.
    """
    tree = plain(config)
    tree.pop("tune", None)
    others = dict(parameters)
    shield_type = others.pop("shield")
    tree["shield"] = {shield_type: plain(shield_settings(config, shield_type))}
    for key, value in others.items():
        for name in _keys(key, (shield_type,)):
            *sections, last = name.split(".")
            node = tree
            for section in sections:
                node = node.get(section, {})  # of another type: it goes nowhere
            node[last] = value
    return resolve(tree)


def as_overrides(parameters: Mapping[str, Any]) -> list[str]:
    """What a trial drew as overrides of the command line."""
    others = dict(parameters)
    shield_type = others.pop("shield")
    return [f"shield={shield_type}"] + [
        f"{name}={'null' if value is None else value}"
        for key, value in others.items()
        for name in _keys(key, (shield_type,))
    ]


def _domains(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Domain]]:
    """Every domain below a mapping, which may be empty; of several of one key the last."""
    for name, node in tree.items():
        key = f"{prefix}{name}"
        if not isinstance(node, Mapping):
            raise ConfigError(
                f"tune.space.{key}: expected a domain of kind {', '.join(_KINDS)}, such as "
                f"'tune.space.{key}={{loguniform:[1e-4,1e-2]}}', got {node!r}"
            )
        kinds = [kind for kind in node if kind in _KINDS]
        if kinds:
            yield key, _domain(key, kinds[-1], node[kinds[-1]])
        below = {name: child for name, child in node.items() if name not in _KINDS}
        yield from _domains(below, f"{key}.")


def _domain(key: str, kind: str, values: Any) -> Domain:
    expected = (
        "its two ends [a, b] with a < b" if kind in _RANGES else "a list of values [a, b, ...]"
    )
    ok = isinstance(values, list) and len(values) > 0
    if ok and kind in _RANGES:
        ok = len(values) == 2 and all(map(_is_number, values)) and values[0] < values[1]
    if not ok:
        raise ConfigError(f"tune.space.{key}: {kind} takes {expected}, got {values!r}")
    if kind == "loguniform" and values[0] <= 0:
        raise ConfigError(f"tune.space.{key}: loguniform takes ends above 0, got {values!r}")
    if len(set(map(repr, values))) < len(values):
        raise ConfigError(f"tune.space.{key}: {kind} holds a value twice: {values!r}")
    return Domain(key, kind, tuple(values))


def _checked(domain: Domain, config: DictConfig, types: Sequence[Any]) -> Domain:
    """The domain with its values as the key has them: an integer for a number becomes a float."""
    tree = plain(config)
    tree["shield"] = {name: plain(shield_settings(config, name)) for name in types}
    known = flatten(tree)
    values = domain.values
    for key in _keys(domain.key, types):
        _check_searchable(domain.key, key, known)
        values = tuple(_checked_one(domain, key, value, known[key]) for value in values)
    return Domain(domain.key, domain.kind, values)


def _check_searchable(written: str, key: str, known: Mapping[str, Any]) -> None:
    try:
        check_key(key, known)
    except ConfigError as error:
        raise ConfigError(f"tune.space.{written}: {error}") from error
    reason = next((why for pattern, why in _FIXED.items() if fnmatchcase(key, pattern)), "")
    if reason:
        raise ConfigError(f"tune.space.{written} is nothing to search: {reason}")
    if key not in known:
        raise ConfigError(f"tune.space.{written} is a section: give one of its keys a domain")


def _checked_one(domain: Domain, key: str, value: Any, default: Any) -> Any:
    try:
        checked = checked_value(key, value, default)
    except ConfigError as error:
        raise ConfigError(f"tune.space.{domain.key}: {error}") from error
    if domain.kind in ("uniform", "loguniform") and type(checked) is not float:
        raise ConfigError(
            f"tune.space.{domain.key}: {domain.kind} draws numbers that are not whole, and {key} "
            "takes none: use randint or choice"
        )
    if domain.kind == "randint" and type(checked) is not int:
        raise ConfigError(
            f"tune.space.{domain.key}: randint draws whole numbers, and {key} takes others too: "
            "use uniform or loguniform"
        )
    return checked


def _keys(key: str, types: Sequence[Any]) -> list[str]:
    """The config keys that a key of the space stands for, one for each shield type."""
    section, _, rest = key.partition(".")
    if section != "shield" or rest.partition(".")[0] in list_shields():
        return [key]
    return [f"shield.{name}.{rest}" for name in types]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
