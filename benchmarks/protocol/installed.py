"""Which controls and peers this machine can run."""

__all__ = ["controls_here"]


def controls_here() -> tuple[str, ...]:
    """Names of the controls."""
    return ()
