"""How the attention deployment follows its load: from the config section to Serve's own options. Pure.

One call is open for each sequence, so Serve's count of ongoing requests is the count of sequences.
"""

from typing import Any

from cluster.config import AttentionSection, EngineSection

METRICS_INTERVAL_S = 0.5
"""How often replicas tell the controller their load."""
LOOK_BACK_PERIOD_S = 2.0
"""Over how long the controller averages it."""


def scaling_options(attention: AttentionSection) -> dict[str, Any]:
    """Return the deployment options that decide how many replicas there are."""
    if attention.min_replicas >= attention.max_replicas:
        return {"num_replicas": attention.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": attention.min_replicas,
            "max_replicas": attention.max_replicas,
            "target_ongoing_requests": attention.target_sequences,
            "upscale_delay_s": attention.upscale_delay_s,
            "downscale_delay_s": attention.downscale_delay_s,
            "metrics_interval_s": min(METRICS_INTERVAL_S, attention.upscale_delay_s),
            "look_back_period_s": max(LOOK_BACK_PERIOD_S, METRICS_INTERVAL_S),
        }
    }


def max_ongoing_sequences(engine: EngineSection) -> int:
    """Return how many sequences Serve may route to one replica: what its engine takes in, running and waiting."""
    return engine.max_running_sequences + engine.max_waiting_sequences


def actor_options(resources: dict[str, float]) -> dict[str, Any]:
    """Return Ray's actor options for a claim like `{attention: 0.001, GPU: 1}`; without CPU it claims none."""
    custom = {name: amount for name, amount in resources.items() if name not in {"CPU", "GPU"}}
    return {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0), "resources": custom}
