"""FairLock: one at a time, in the order of asking."""

import threading
import time

from cluster.experts.fair_lock import FairLock
from tests.cluster.experts.hand import until


def test_turns_are_given_in_the_order_of_asking() -> None:
    lock, order = FairLock(), list[int]()

    def take(number: int) -> None:
        with lock:
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    with lock:
        for waiting, thread in enumerate(threads, start=1):
            thread.start()
            until(lambda expected=waiting: len(lock._waiting) == expected)
    for thread in threads:
        thread.join(5)
    assert order == list(range(8))


def test_the_holder_is_alone() -> None:
    lock, inside, most = FairLock(), 0, 0

    def count() -> None:
        nonlocal inside, most
        for _ in range(50):
            with lock:
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert (inside, most) == (0, 1)


def test_the_lock_is_free_after_an_error_inside() -> None:
    lock = FairLock()
    try:
        with lock:
            raise KeyError
    except KeyError:
        pass
    with lock:
        pass
