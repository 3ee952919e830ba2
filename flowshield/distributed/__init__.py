"""The same work on Ray: collection, training, sweeps and evaluation over many processes."""

from flowshield.distributed.collect import collect_shared
from flowshield.distributed.session import session
from flowshield.distributed.shared_dataset import SharedDataset

__all__ = ["SharedDataset", "collect_shared", "session"]
