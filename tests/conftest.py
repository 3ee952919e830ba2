import os

# Small networks on a busy machine: two threads that wait for each other are slower than one. This
# is for the processes that tests start, and stands before torch is imported here.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

os.environ.pop("MPLBACKEND", None)  # of a notebook, in whose terminal this was typed


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Processes share the tests: a file stays whole, and all that share a Ray stay together.

    Those with a Ray come first, for they take longest: at the end there are short ones to share.
    """
    for item in items:
        group = "cluster" if "cluster" in item.fixturenames else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_place)


def _place(item):
    if "cluster" in item.fixturenames:
        return 0
    return 1 if item.get_closest_marker("ray") else 2
