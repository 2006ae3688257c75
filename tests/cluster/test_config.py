"""Config sections refuse values that cannot work together, by name."""

import pytest
from pydantic import ValidationError

from cluster.config import ExpertsSection, NumericsSection


def test_a_layer_waits_longer_than_a_reply() -> None:
    assert ExpertsSection(reply_timeout_s=5.0, layer_timeout_s=6.0).layer_timeout_s == 6.0
    with pytest.raises(
        ValidationError, match="layer_timeout_s is 60; it must be more than reply_timeout_s, which is 60"
    ):
        ExpertsSection(reply_timeout_s=60.0, layer_timeout_s=60.0)


def test_a_mode_that_rounds_nothing_takes_no_rounded_weights() -> None:
    assert NumericsSection(dense_weights="q8_0").mode == "precise"
    with pytest.raises(ValidationError, match="dense_weights is q8_0, but mode float32 rounds nothing"):
        NumericsSection(mode="float32", dense_weights="q8_0")
