import os

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # or they wait behind everything else
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process less a training


@pytest.fixture(scope="session")
def cluster():
    """One Ray for all tests that can share it; it believes in four CPUs, whatever there are."""
    import ray  # after what is said above

    from flowshield.distributed.patience import patient_start

    with patient_start():
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
        )
    yield ray
    ray.shutdown()
