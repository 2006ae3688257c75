"""Config sections refuse values that cannot work together, by name."""

import pytest
from pydantic import ValidationError

from cluster.config import AttentionSection, ExpertsSection, NumericsSection


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


def test_each_copy_of_an_expert_has_a_worker_of_its_own() -> None:
    """Without workers all experts are beside attention, and copies count for nothing."""
    assert [ExpertsSection(num_workers=number).copies for number in (0, 2)] == [2, 2]
    with pytest.raises(ValidationError, match="copies is 2, each on a worker of its own, but num_workers is 1"):
        ExpertsSection(num_workers=1)


@pytest.mark.parametrize("port_range", [[7199, 7100], [65000, 70000], [-1, 10]])
def test_ports_of_workers_are_a_range_of_ports(port_range: list[int]) -> None:
    assert ExpertsSection(port_range=[7100, 7100]).port_range == [7100, 7100]
    with pytest.raises(ValidationError, match="a first and a last port up to 65535"):
        ExpertsSection(port_range=port_range)


def test_there_are_no_more_replicas_at_least_than_at_most() -> None:
    assert AttentionSection(min_replicas=2, max_replicas=2).min_replicas == 2
    with pytest.raises(ValidationError, match="min_replicas is 2, more than max_replicas, which is 1"):
        AttentionSection(min_replicas=2)
