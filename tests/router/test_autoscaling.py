"""From the attention section to Serve's options; Serve's own schema must take them."""

import pytest

from cluster.config import AttentionSection, EngineSection
from router.autoscaling import actor_options, max_ongoing_sequences, scaling_options


def test_a_fixed_number_of_replicas_is_not_autoscaled() -> None:
    assert scaling_options(AttentionSection(min_replicas=2, max_replicas=2)) == {"num_replicas": 2}


@pytest.mark.parametrize("upscale_delay_s", [0.1, 3.0])
def test_a_range_of_replicas_follows_the_sequences_and_serve_accepts_it(upscale_delay_s: float) -> None:
    from ray.serve.config import AutoscalingConfig

    section = AttentionSection(
        min_replicas=1, max_replicas=4, target_sequences=8.0, upscale_delay_s=upscale_delay_s, downscale_delay_s=60.0
    )
    accepted = AutoscalingConfig(**scaling_options(section)["autoscaling_config"])
    assert (accepted.min_replicas, accepted.max_replicas) == (1, 4)
    assert accepted.target_ongoing_requests == 8.0
    assert (accepted.upscale_delay_s, accepted.downscale_delay_s) == (upscale_delay_s, 60.0)
    assert accepted.metrics_interval_s <= upscale_delay_s


def test_serve_may_route_as_many_sequences_as_the_engine_takes_in() -> None:
    assert max_ongoing_sequences(EngineSection(max_running_sequences=3, max_waiting_sequences=4)) == 7


def test_a_claim_without_cpu_claims_none_so_that_one_core_is_enough() -> None:
    assert actor_options({"attention": 0.001}) == {"num_cpus": 0, "num_gpus": 0, "resources": {"attention": 0.001}}
    assert actor_options({"GPU": 1, "CPU": 2, "expert": 1}) == {
        "num_cpus": 2,
        "num_gpus": 1,
        "resources": {"expert": 1},
    }
