"""Errors become answers: the right class for each, and no word of the inside."""

import pytest

from cluster.errors import (
    ClusterError,
    ContextOverflow,
    EngineStopped,
    HandshakeRefused,
    QueueFull,
    TokenUnknown,
    WorkerLost,
)
from model.errors import CheckpointDamaged, TokenizerError
from router.errors import (
    ConfigInvalid,
    DeadlinePassed,
    InvalidRequest,
    Overloaded,
    RequestError,
    ServerFailure,
    Unavailable,
    answer_to,
)


class NewEngineError(EngineStopped):
    """A kind that nobody mapped."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (QueueFull("10.1.2.3"), Overloaded),
        (EngineStopped("10.1.2.3"), Unavailable),
        (NewEngineError("10.1.2.3"), Unavailable),
        (WorkerLost("10.1.2.3"), Unavailable),
        (HandshakeRefused("10.1.2.3"), Unavailable),
        (ClusterError("10.1.2.3"), Unavailable),
        (TimeoutError("10.1.2.3"), DeadlinePassed),
        (CheckpointDamaged("/10.1.2.3", None, "x"), ServerFailure),
        (ConfigInvalid("10.1.2.3"), ServerFailure),
        (ValueError("10.1.2.3"), ServerFailure),
        (KeyError("10.1.2.3"), ServerFailure),
    ],
)
def test_an_error_of_the_inside_is_told_by_its_kind_only(error: Exception, kind: type[RequestError]) -> None:
    answer = answer_to(error)

    assert type(answer) is kind
    assert "10.1.2.3" not in str(answer.body())


@pytest.mark.parametrize(
    "error",
    [
        ContextOverflow("the prompt has 9 tokens"),
        TokenizerError("9 is no token id"),
        TokenUnknown("prompt_ids holds 9, but this model's vocabulary has 8 token ids"),
    ],
)
def test_an_error_of_the_request_is_told_in_its_own_words(error: Exception) -> None:
    answer = answer_to(error)

    assert isinstance(answer, InvalidRequest)
    assert answer.message == str(error)


def test_an_answer_stays_what_it_is() -> None:
    answer = InvalidRequest("n is 5", "n")

    assert answer_to(answer) is answer
    assert answer.body() == {
        "error": {"message": "n is 5", "type": "invalid_request_error", "param": "n", "code": None}
    }


@pytest.mark.parametrize("error", [QueueFull(), EngineStopped()])
def test_whoever_may_try_again_is_told_when(error: Exception) -> None:
    assert int(answer_to(error).headers()["retry-after"]) >= 1
