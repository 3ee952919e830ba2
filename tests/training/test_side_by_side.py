import threading
import time

import pytest
from patience import PATIENCE_S

from flowshield.training.side_by_side import side_by_side


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_the_order_given(at_once):
    def later(i):
        time.sleep(0.01 * (3 - i))
        return i

    trainings = [lambda i=i: later(i) for i in range(4)]
    assert side_by_side(trainings, at_once, threading.Event()) == [0, 1, 2, 3]


def test_as_many_as_are_allowed_run_at_once():
    together = threading.Barrier(3)  # a fourth thread would be needed to break it

    def meet():
        together.wait(timeout=PATIENCE_S)

    side_by_side([meet] * 3, 3, threading.Event())


def test_the_first_failure_ends_the_others_and_begins_no_more():
    stop, begun, ended = threading.Event(), [], []

    def fail():
        raise ValueError("first")

    def wait():
        begun.append(1)
        assert stop.wait(timeout=PATIENCE_S)
        ended.append(1)
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match="first"):
        side_by_side([wait, fail, *[wait] * 5], 2, stop)
    assert len(begun) == len(ended) <= 2
    assert not stop.is_set()  # whoever trains next is not stopped


def test_in_one_thread_they_are_this_one():
    threads = side_by_side([threading.get_ident] * 2, 1, threading.Event())
    assert set(threads) == {threading.get_ident()}
