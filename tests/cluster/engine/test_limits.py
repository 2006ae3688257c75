"""What an engine refuses: limits that cannot work, and requests that it can never serve."""

import pytest

from cluster.engine.blocks import BlockCount
from cluster.errors import ContextOverflow, EngineError, TokenUnknown
from tests.cluster.engine.driver import hand_limits, request


def test_limits_under_which_a_sequence_would_wait_for_ever_are_refused() -> None:
    with pytest.raises(ValueError, match="do not hold one sequence"):
        hand_limits(num_blocks=BlockCount(10, 40), max_context_tokens=40)
    with pytest.raises(ValueError, match="do not hold one sequence"):
        hand_limits(num_blocks=BlockCount(40, 3), max_context_tokens=40)
    with pytest.raises(ValueError, match="max_step_tokens is 7"):
        hand_limits(max_step_tokens=7, max_running=8)


@pytest.mark.parametrize(
    ("prompt", "num_released", "error", "message"),
    [
        ([], 0, EngineError, "no tokens"),
        ([1] * 100, 0, ContextOverflow, "has 100 tokens and leaves no room"),
        ([1] * 101, 50, ContextOverflow, "have 101 tokens"),
        ([1, 97], 0, TokenUnknown, "prompt_ids holds 97, but this model's vocabulary has 97 token ids"),
        ([1, -1], 0, TokenUnknown, "prompt_ids holds -1"),
        ([1, 2], 2, EngineError, "cannot be released"),
        ([1, 2], -1, EngineError, "cannot be released"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(
    prompt: list[int], num_released: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        hand_limits().check_request(request("a", prompt, num_released=num_released))


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(TokenUnknown, match="logit_bias holds 97"):
        hand_limits().check_request(request("a", [1], logit_bias=((97, 1.0),)))
