"""Config sections refuse values that cannot work together, by name."""

import pytest
from pydantic import ValidationError

from cluster.config import ExpertsSection


def test_a_layer_waits_longer_than_a_reply() -> None:
    assert ExpertsSection(reply_timeout_s=5.0, layer_timeout_s=6.0).layer_timeout_s == 6.0
    with pytest.raises(
        ValidationError, match="layer_timeout_s is 60; it must be more than reply_timeout_s, which is 60"
    ):
        ExpertsSection(reply_timeout_s=60.0, layer_timeout_s=60.0)
