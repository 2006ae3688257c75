"""SamplingParams refuses every wrong value by the name of its field."""

import math
from typing import Any

import pytest

from model.sampling_params import SamplingParams

WRONG: list[tuple[str, Any]] = [
    ("max_tokens", 0),
    ("seed", 2**64),
    ("seed", -(2**63) - 1),
    ("choice", -1),
    ("choice", 2**32),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("top_p", math.nan),
    ("top_k", 0),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("presence_penalty", math.nan),
    ("frequency_penalty", math.inf),
    ("repetition_penalty", 0.0),
    ("logit_bias", ((-1, 1.0),)),
    ("logit_bias", ((1, math.inf),)),
    ("logit_bias", ((1, 1.0), (1, 2.0))),
    ("stop", ("a", "")),
    ("stop_token_ids", (-1,)),
    ("num_logprobs", -1),
    ("min_tokens", 11),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_value_is_refused_by_name(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"max_tokens": 10, "seed": 0, field: value}
    with pytest.raises(ValueError, match=f"^{field} is "):
        SamplingParams(**fields)


def test_the_widest_allowed_values_are_accepted() -> None:
    params = SamplingParams(
        max_tokens=1, seed=2**64 - 1, choice=2**32 - 1, temperature=0.0, top_p=1.0, top_k=1, min_p=1.0, num_logprobs=0
    )
    assert not params.has_penalties
    assert SamplingParams(max_tokens=1, seed=-(2**63)).seed == -(2**63)
