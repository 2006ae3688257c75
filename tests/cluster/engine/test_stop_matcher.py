"""Stop strings are found wherever the text is cut."""

import random

import pytest

from cluster.engine.stop_matcher import StopMatcher


def _push_all(matcher: StopMatcher, pieces: list[str]) -> tuple[str, str | None]:
    emitted, matched = "", None
    for piece in pieces:
        text, matched = matcher.push(piece)
        emitted += text
    return emitted + (matcher.flush() if matched is None else ""), matched


def test_text_passes_at_once_unless_it_may_begin_a_stop_string() -> None:
    matcher = StopMatcher(["END", "STOP"])
    assert matcher.push("one two") == ("one two", None)
    assert matcher.push(" three S") == (" three ", None)
    assert matcher.push("T") == ("", None)
    assert matcher.push("ART E") == ("START ", None)
    assert matcher.push("ND more") == ("", "END")
    assert matcher.push("anything") == ("", "END")


def test_what_was_held_back_comes_at_the_end() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the EN") == ("the ", None)
    assert matcher.flush() == "EN"
    assert matcher.push("D") == ("D", None)


def test_the_first_to_be_complete_wins_and_the_longest_among_equals() -> None:
    assert _push_all(StopMatcher(["abcd", "bc"]), ["xabcd"]) == ("xa", "bc")
    assert _push_all(StopMatcher(["c", "abc", "bc"]), ["xabc"]) == ("x", "abc")


def test_without_stop_strings_everything_passes() -> None:
    assert _push_all(StopMatcher([]), ["a", "", "b"]) == ("ab", None)


def test_an_overlapping_beginning_is_not_lost() -> None:
    """In `aab` after `aa` the second a may begin the stop string again."""
    assert _push_all(StopMatcher(["aab"]), ["a", "a", "a", "b"]) == ("a", "aab")


@pytest.mark.parametrize("seed", range(200))
def test_the_cuts_of_the_text_change_nothing(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choice("ab") for _ in range(30))
    stops = ["".join(chance.choice("ab") for _ in range(chance.randint(1, 6))) for _ in range(chance.randint(1, 3))]
    pieces: list[str] = []
    rest = text
    while rest:
        cut = chance.randint(0, 4)
        pieces.append(rest[:cut])
        rest = rest[cut:]
    emitted, matched = _push_all(StopMatcher(stops), pieces)
    assert (emitted, matched) == _push_all(StopMatcher(stops), [text])
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    assert (matched is None) == (not ends)
    if matched is not None:
        assert emitted + matched == text[: min(ends)]
