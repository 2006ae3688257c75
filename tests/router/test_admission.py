"""Places at an edge: bounded, never all for one key, and whoever is refused is told when one will be free."""

import pytest

from cluster.clock import ManualClock
from router.admission import MAX_RETRY_AFTER_S, Admission, Ticket
from router.errors import RETRY_AFTER_S, Overloaded


def refusal(admission: Admission, tenant: str = "") -> Overloaded:
    with pytest.raises(Overloaded) as caught:
        admission.admit(tenant)
    return caught.value


def fill(admission: Admission, tenant: str = "") -> list[Ticket]:
    """Take places until there is none for the tenant."""
    tickets: list[Ticket] = []
    while True:
        try:
            tickets.append(admission.admit(tenant))
        except Overloaded:
            return tickets


def test_a_place_is_given_back_once() -> None:
    admission = Admission(2)
    first, _ = admission.admit(), admission.admit()
    refusal(admission)
    first.release()
    first.release()
    assert admission.num_running == 1
    admission.admit()
    refusal(admission)


def test_before_anything_has_ended_nothing_is_known_of_the_wait() -> None:
    admission = Admission(1, ManualClock())
    admission.admit()
    assert refusal(admission).retry_after_s == RETRY_AFTER_S


def ended_every(seconds: float, num_ends: int = 5) -> tuple[Admission, ManualClock]:
    """Return a full edge of three places where a request has ended every so many seconds, the last one now."""
    clock = ManualClock()
    admission = Admission(3, clock)
    tickets = [admission.admit() for _ in range(3)]
    for end in range(num_ends):
        clock.advance(seconds if end else 0.0)
        tickets.pop(0).release()
        tickets.append(admission.admit())
    return admission, clock


def test_the_wait_is_what_places_took_to_become_free() -> None:
    """Ends at 0, 4, 8, 12, 16 s: the next place is expected 4 s from now, the one for whoever comes second after 8."""
    admission, _ = ended_every(4.0)
    assert [refusal(admission).retry_after_s for _ in range(3)] == [4, 8, 12]


def test_who_was_told_a_time_that_has_passed_is_no_longer_ahead() -> None:
    """9 s on, those who were told 4 and 8 s have come and gone: 25 s with 4 ends after the first, 6.25 s each."""
    admission, clock = ended_every(4.0)
    for _ in range(2):
        refusal(admission)
    clock.advance(9.0)
    assert refusal(admission).retry_after_s == 7


def test_silence_makes_the_wait_longer_up_to_a_limit() -> None:
    """8 s after the last of 5 ends in 16 s: 24 s for 4 more ends. After an hour: the longest."""
    admission, clock = ended_every(4.0)
    clock.advance(8.0)
    assert refusal(admission).retry_after_s == 6
    clock.advance(3600.0)
    assert refusal(admission).retry_after_s == MAX_RETRY_AFTER_S


def test_the_wait_is_at_least_a_second_and_is_told_in_words_too() -> None:
    admission, _ = ended_every(0.01)
    answer = refusal(admission)
    assert answer.headers()["retry-after"] == "1"
    assert "Try again in 1 s." in answer.message


def test_one_key_leaves_places_for_another_however_much_it_wants() -> None:
    """Of 100 places one key gets 80, for then four times what is free; the next gets 16, and there is room still."""
    admission = Admission(100)
    assert [len(fill(admission, tenant)) for tenant in ("a", "b", "c")] == [80, 16, 4]


def test_without_keys_everybody_may_have_every_place() -> None:
    assert len(fill(Admission(100))) == 100


def test_one_key_alone_can_use_a_small_server() -> None:
    assert [len(fill(Admission(size), "a")) for size in (1, 2, 3, 4, 5)] == [1, 2, 3, 4, 4]
