"""The same work on Ray: collection, training, sweeps and evaluation over many processes."""

from flowshield.distributed.session import session

__all__ = ["session"]
