"""Our own errors, as they were before they crossed a process."""

__all__ = ["own_error"]

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayTaskError

from flowshield.errors import FlowshieldError


@contextmanager
def own_error() -> Iterator[None]:
    """Raises a flowshield error of a remote task as itself, without Ray's traceback around it."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, FlowshieldError):
            raise error.cause from None
        raise
