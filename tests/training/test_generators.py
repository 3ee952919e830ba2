import threading

import torch

from flowshield.training.generators import seeded


def test_the_body_draws_from_the_seed_and_leaves_no_trace():
    torch.manual_seed(5)
    undisturbed = torch.rand(2)
    torch.manual_seed(5)
    with seeded(1):
        first = torch.rand(3)
    assert torch.equal(torch.rand(2), undisturbed)
    with seeded(1):
        assert torch.equal(torch.rand(3), first)


def test_threads_take_turns():
    def draws(seed, into):
        with seeded(seed):
            into.extend(torch.rand(1).item() for _ in range(300))

    alone = {seed: [] for seed in range(4)}
    for seed, into in alone.items():
        draws(seed, into)
    together = {seed: [] for seed in range(4)}
    threads = [threading.Thread(target=draws, args=item) for item in together.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
