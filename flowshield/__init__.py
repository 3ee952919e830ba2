"""Command-conditioned policies (upside-down RL) guarded by calibrated shields."""

__all__ = ["__version__"]

from flowshield.matplotlib_backend import settle_backend

__version__ = "0.1.0"

settle_backend()  # here, before anything else imports matplotlib: also in Ray's workers
