"""What was computed once is found again: by the same tokens of the same client, as far as every window reaches."""

from dataclasses import replace

import pytest

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.prefix import extend_names, longest_prefix
from cluster.engine.sequence import SequenceRequest
from tests.cluster.engine.driver import Driver, hand_limits, request
from tests.cluster.engine.hand_transformer import hand_continuation

GEOMETRY = BlockGeometry(block_tokens=4, window=6)
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7]


def run(driver: Driver, one: SequenceRequest) -> int:
    """Run a request alone; return how many of its tokens were found."""
    driver.admit(one)
    driver.finish()
    assert driver.tokens(one.sequence_id) == hand_continuation(list(one.prompt_ids), 5)
    return driver.ending(one.sequence_id).num_cached


def test_names_stand_for_all_tokens_up_to_a_blocks_end_and_for_the_salt() -> None:
    names: list[bytes] = []
    extend_names(names, "", [1, 2, 3, 4, 5, 6, 7], 4)
    assert len(names) == 1
    extend_names(names, "", [1, 2, 3, 4, 5, 6, 7, 8], 4)
    others: list[list[bytes]] = [[], [], []]
    for other, (salt, tokens) in zip(
        others, [("", [1, 2, 3, 4, 5, 6, 7, 8]), ("", [0, 2, 3, 4, 5, 6, 7, 8]), ("b", [1, 2, 3, 4])], strict=True
    ):
        extend_names(other, salt, tokens, 4)
    assert others[0] == names
    assert others[1][1] != names[1]
    assert others[2][0] != names[0]


@pytest.mark.parametrize(
    ("has_sliding", "expected"),
    [
        ([False, True, True], 3),  # a row at 12 sees 7 to 11: blocks 1 and 2
        ([True, True, False], 2),
        ([True, False, True], 1),
        ([False, True, False], 0),
        ([], 0),
    ],
)
def test_a_hit_ends_where_every_window_is_whole(has_sliding: list[bool], expected: int) -> None:
    assert longest_prefix(has_sliding, GEOMETRY) == expected


def test_the_same_prompt_is_computed_once_but_for_its_last_block() -> None:
    driver = Driver()
    assert run(driver, request("a", PROMPT)) == 0
    before = driver.transformer.num_steps
    assert run(driver, request("b", PROMPT)) == 12
    assert driver.transformer.num_steps - before == 5


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    """12 tokens are 3 whole blocks; the third must be computed again for its logits."""
    driver = Driver()
    run(driver, request("a", PROMPT[:12]))
    assert run(driver, request("b", PROMPT[:12])) == 8


def test_a_conversation_goes_on_where_it_was() -> None:
    driver = Driver()
    run(driver, request("a", PROMPT))
    turn = [*PROMPT, *hand_continuation(PROMPT, 5), 11, 12, 13]
    assert run(driver, request("b", turn)) == 16, "18 of its tokens have been computed: 4 whole blocks"


def test_two_that_begin_alike_share_and_part() -> None:
    driver = Driver()
    run(driver, request("a", PROMPT))
    driver.admit(
        request("b", [*PROMPT[:12], 50, 51]), request("c", [*PROMPT[:12], 60]), request("d", [*PROMPT[:7], 70])
    )
    driver.finish()
    for name, prompt in (("b", [*PROMPT[:12], 50, 51]), ("c", [*PROMPT[:12], 60]), ("d", [*PROMPT[:7], 70])):
        assert driver.tokens(name) == hand_continuation(prompt, 5)
    assert [driver.ending(name).num_cached for name in "bc"] == [12, 12]


def test_clients_of_different_salts_share_nothing() -> None:
    driver = Driver()
    run(driver, replace(request("a", PROMPT), cache_salt="one"))
    assert run(driver, replace(request("b", PROMPT), cache_salt="two")) == 0
    assert run(driver, replace(request("c", PROMPT), cache_salt="one")) == 12


def test_without_the_cache_nothing_is_found() -> None:
    driver = Driver(hand_limits(keeps_prefixes=False))
    run(driver, request("a", PROMPT))
    assert run(driver, request("b", PROMPT)) == 0


def test_what_is_kept_makes_room_oldest_first() -> None:
    """12 full blocks: each run leaves 4 with names and one without, so the third run takes the first one's."""
    driver = Driver(hand_limits(num_blocks=BlockCount(13, 13), max_context_tokens=40))
    for offset, name in ((0, "a"), (20, "b"), (40, "c")):
        assert run(driver, request(name, [token + offset for token in PROMPT])) == 0
    assert run(driver, request("b2", [token + 20 for token in PROMPT])) == 12
    assert run(driver, request("a2", PROMPT)) == 0


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    """10 full blocks cannot hold both to their ends; who gives way computes little again."""
    driver = Driver(hand_limits(num_blocks=BlockCount(11, 13), max_context_tokens=36, max_step_tokens=40))
    driver.admit(request("a", PROMPT, max_tokens=18), request("b", [token + 30 for token in PROMPT], max_tokens=18))
    driver.finish()
    assert driver.engine.stats(0.0).num_preemptions > 0
    assert driver.tokens("a") == hand_continuation(PROMPT, 18)
    assert driver.tokens("b") == hand_continuation([token + 30 for token in PROMPT], 18)
    assert driver.ending("b").num_cached == 0, "what it finds of its own was not saved by anybody before it"
