"""The refresher: asking never waits, whatever the supervisor does, and every asking is answered by a later fetch."""

import threading
import time

from cluster.cluster_status import Membership
from cluster.membership_refresher import MembershipRefresher
from tests.cluster.experts.hand import until


def test_asking_does_not_wait_for_a_supervisor_that_hangs_and_is_not_forgotten() -> None:
    goes_on, num_fetches = threading.Event(), 0
    published: list[int] = []

    def fetch() -> Membership:
        nonlocal num_fetches
        num_fetches += 1
        assert goes_on.wait(10.0)
        return Membership(num_fetches, 4, 2, ())

    refresher = MembershipRefresher(fetch, lambda membership: published.append(membership.epoch))
    refresher.ask(0)
    until(lambda: num_fetches == 1)
    started_s = time.monotonic()
    for _ in range(1000):
        refresher.ask(0)
    assert time.monotonic() - started_s < 1.0
    assert published == []
    goes_on.set()
    until(lambda: published == [1, 2])  # a thousand askings during one fetch are one more


def test_a_supervisor_that_is_away_publishes_nothing() -> None:
    fetched = threading.Event()
    published: list[Membership] = []

    def fetch() -> None:
        fetched.set()

    refresher = MembershipRefresher(fetch, published.append)
    refresher.ask(3)
    assert fetched.wait(10.0)
    assert published == []
