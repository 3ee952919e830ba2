"""Reads and checks the mapping that describes a mixture of behaviours."""

__all__ = ["Component", "read_components"]

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from flowshield.data.behaviour_kinds import KINDS
from flowshield.errors import ConfigError, unknown_name


class Component(NamedTuple):
    """One part of a mixture.

    Attributes:
        kind: Name of the kind of behaviour.
        weight: Its weight among the components, positive; the weights need not sum to one.
        levels: The levels from which an episode draws evenly; empty for kinds without levels.
    """

    kind: str
    weight: float
    levels: tuple[float, ...] = ()


def read_components(config: Mapping[str, Any]) -> tuple[Component, ...]:
    """Reads `{"components": [{"kind": ..., "weight": ..., "levels": [...]}, ...]}`.

    Raises:
        ConfigError: A kind or key is unknown, a weight is not positive, or levels are missing,
            out of range, or given to a kind that has none.
    """
    for key in config:
        if key != "components":
            raise unknown_name("behaviour key", key, ["components"])
    entries = config.get("components")
    if not _is_list(entries) or not entries:
        raise ConfigError(
            f"a behaviour needs a non-empty list `components` of {{kind, weight, levels}}, "
            f"got {entries!r}"
        )
    return tuple(_read_component(entry, place) for place, entry in enumerate(entries))


def _read_component(entry: Any, place: int) -> Component:
    where = f"components[{place}] of the behaviour"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: expected {{kind, weight, levels}}, got {entry!r}")
    for key in entry:
        if key not in Component._fields:
            raise unknown_name(f"key in {where}", key, Component._fields)
    kind = entry.get("kind")
    if kind not in KINDS:
        raise unknown_name("behaviour kind", kind, KINDS)
    weight = entry.get("weight")
    if not _is_number(weight) or weight <= 0:
        raise ConfigError(f"{where} ({kind}): expected a weight > 0, got {weight!r}")
    return Component(kind, float(weight), _read_levels(entry.get("levels"), kind, where))


def _read_levels(levels: Any, kind: str, where: str) -> tuple[float, ...]:
    meaning = KINDS[kind].level_meaning
    if meaning is None:
        if levels is not None:
            raise ConfigError(f"{where}: {kind} has no levels, got {levels!r}: leave them out")
        return ()
    if not _is_list(levels) or not levels:
        raise ConfigError(
            f"{where}: {kind} needs a non-empty list of levels ({meaning}), got {levels!r}"
        )
    for level in levels:
        if not _is_number(level) or not KINDS[kind].admits(level):
            raise ConfigError(f"{where}: a level of {kind} is a {meaning}; got {level!r}")
    return tuple(float(level) for level in levels)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
