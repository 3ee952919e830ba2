"""The same work on Ray: collection, training, sweeps and evaluation over many processes."""

from flowshield.distributed.collect import collect_shared
from flowshield.distributed.evaluate import EvaluatorPool
from flowshield.distributed.session import count_cpus, session
from flowshield.distributed.shared_dataset import SharedDataset
from flowshield.distributed.tune import check_search, holds_sweep, sweep

__all__ = [
    "EvaluatorPool",
    "SharedDataset",
    "check_search",
    "collect_shared",
    "count_cpus",
    "holds_sweep",
    "session",
    "sweep",
]
