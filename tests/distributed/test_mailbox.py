import pytest
import ray

from flowshield.distributed.mailbox import Mailbox

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0)
def leave(mailbox, epochs):
    return [mailbox.put({"epoch": epoch}) for epoch in epochs]


def test_letters_come_in_order_each_to_its_own_box_until_nobody_waits(cluster):
    first, second = Mailbox(), Mailbox()
    assert all(ray.get(leave.remote(first, [1.0, 2.0])))
    assert all(ray.get(leave.remote(second, [3.0])))
    assert [letter["epoch"] for letter in first.take()] == [1.0, 2.0]
    assert first.take() == []
    first.close()
    assert ray.get(leave.remote(first, [4.0])) == [False]
    del first  # the other's letters are still there
    assert [letter["epoch"] for letter in second.take()] == [3.0]
    second.close()
