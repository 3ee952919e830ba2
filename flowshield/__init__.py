"""Command-conditioned policies (upside-down RL) guarded by calibrated shields."""

__all__ = ["__version__"]

__version__ = "0.1.0"
