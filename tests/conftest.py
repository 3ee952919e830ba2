import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    # small networks on a busy machine: two threads that wait for each other are slower than one
    torch.set_num_threads(1)
