"""Who stands between a command and the agent in the behaviour grid."""

__all__ = ["guard_for"]

from typing import Any

from protocol.contenders import load_shield
from protocol.schedule import Context
from protocol.store import Key


def guard_for(context: Context, key: Key) -> Any:
    """A shield, a control that can project, or None."""
    if key.model == "none":
        return None
    return load_shield(context, key)
