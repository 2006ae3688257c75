"""Which edge gets which event, and whose sequences are lost when."""

import random

import pytest

from cluster.engine.sequence import TokenEvent
from cluster.errors import EngineStopped
from cluster.token_routes import TokenRoutes


def event(sequence_id: str, attempt: int = 0) -> TokenEvent:
    return TokenEvent(sequence_id, attempt, 0, (7,))


def test_events_go_to_the_edge_that_opened_their_sequence() -> None:
    routes = TokenRoutes(timeout_s=10)
    a, _ = routes.attach("a")
    b, _ = routes.attach("b")
    routes.open("s1", 0, "a")
    routes.open("s2", 0, "b")
    routes.open("s3", 0, "a")
    routed = routes.route([event("s1"), event("s2"), event("s3"), event("unknown")])
    assert routed == {a: [event("s1"), event("s3")], b: [event("s2")]}


def test_events_of_another_attempt_are_left_out() -> None:
    routes = TokenRoutes(timeout_s=10)
    a, _ = routes.attach("a")
    routes.open("s", 1, "a")
    assert routes.route([event("s", 0)]) == {}
    assert routes.route([event("s", 1)]) == {a: [event("s", 1)]}


def test_a_newer_attempt_takes_over_and_the_older_ones_end_does_not_touch_it() -> None:
    routes = TokenRoutes(timeout_s=10)
    a, _ = routes.attach("a")
    b, _ = routes.attach("b")
    routes.open("s", 0, "a")
    routes.open("s", 1, "b")
    routes.close("s", 0)
    assert routes.route([event("s", 0), event("s", 1)]) == {b: [event("s", 1)]}
    with pytest.raises(EngineStopped, match="at attempt 1"):
        routes.open("s", 1, "a")
    assert a != b
    routes.check_integrity()


def test_a_sequence_needs_an_edge_that_is_attached() -> None:
    routes = TokenRoutes(timeout_s=10)
    with pytest.raises(EngineStopped, match="edge a has no token stream"):
        routes.open("s", 0, "a")
    attachment, _ = routes.attach("a")
    routes.detach("a", attachment, now_s=1)
    with pytest.raises(EngineStopped):
        routes.open("s", 0, "a")


def test_an_edge_that_comes_back_has_lost_its_older_sequences() -> None:
    routes = TokenRoutes(timeout_s=10)
    first, _ = routes.attach("a")
    routes.open("old", 0, "a")
    routes.detach("a", first, now_s=1)
    second, lost = routes.attach("a")
    routes.open("new", 0, "a")
    assert lost == ["old"]
    assert routes.route([event("old"), event("new")]) == {second: [event("new")]}


def test_the_end_of_an_older_attachment_does_not_touch_the_newer_one() -> None:
    routes = TokenRoutes(timeout_s=10)
    first, _ = routes.attach("a")
    second, _ = routes.attach("a")
    routes.detach("a", first, now_s=1)
    routes.open("s", 0, "a")
    assert routes.route([event("s")]) == {second: [event("s")]}
    assert routes.expire(now_s=1000) == []


def test_an_edge_that_stays_gone_loses_its_sequences_once() -> None:
    routes = TokenRoutes(timeout_s=10)
    attachment, _ = routes.attach("a")
    routes.open("s1", 0, "a")
    routes.open("s2", 0, "a")
    routes.detach("a", attachment, now_s=100)
    assert routes.expire(now_s=109) == []
    assert routes.expire(now_s=110) == ["s1", "s2"]
    assert routes.expire(now_s=111) == []
    assert routes.num_open == 0


@pytest.mark.parametrize("seed", range(30))
def test_any_history_leaves_nothing_behind(seed: int) -> None:
    generator = random.Random(seed)
    routes = TokenRoutes(timeout_s=5)
    attachments: dict[str, int] = {}
    opened: set[str] = set()
    for now_s in range(300):
        edge_id = generator.choice("abc")
        match generator.randrange(5):
            case 0:
                attachments[edge_id], _ = routes.attach(edge_id)
            case 1 if edge_id in attachments:
                routes.detach(edge_id, attachments.pop(edge_id), now_s)
            case 2 if edge_id in attachments:
                routes.open(f"s{now_s}", 0, edge_id)
                opened.add(f"s{now_s}")
            case 3 if opened:
                routes.close(generator.choice(sorted(opened)), 0)
            case _:
                routes.expire(now_s)
        routes.check_integrity()
        routed = routes.route([event(sequence_id) for sequence_id in sorted(opened)])
        assert set(routed) <= set(attachments.values())
    for edge_id, attachment in attachments.items():
        routes.detach(edge_id, attachment, 1000)
    routes.expire(2000)
    assert routes.num_open == 0
