"""Which controls and peers this machine can run."""

__all__ = ["controls_here", "peers_here"]


def controls_here() -> tuple[str, ...]:
    """Names of the controls."""
    return ()


def peers_here() -> tuple[str, ...]:
    """Names of the peers whose packages are installed."""
    return ()
