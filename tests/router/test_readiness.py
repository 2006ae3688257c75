"""What /ready says while the cluster comes up, and what /metrics sums."""

from dataclasses import replace

import pytest

from cluster.cluster_status import FAILED, READY, BalanceStatus, ClusterStatus, ComponentReport, newest_known
from router.readiness import placement_text, readiness_of, stats_of

WORKER_LOADING = ComponentReport("worker-1", "worker", "loading experts", done=8, total=16)
WORKER_READY = ComponentReport("worker-0", "worker", READY, is_ready=True, detail="127.0.0.1:1")
ATTENTION_READY = ComponentReport(
    "attention-a",
    "attention",
    READY,
    is_ready=True,
    facts={"fingerprint": "f00", "kernel_backend": "native", "max_context_tokens": "4096"},
    stats={"num_running": 2, "num_tokens": 10, "num_free_blocks": 5},
)


def status(*components: ComponentReport, num_workers: int = 2, epoch: int | None = None) -> ClusterStatus:
    return ClusterStatus("abc", epoch, num_workers, 2, components)


def test_nothing_is_known_before_the_supervisor_answers() -> None:
    readiness = readiness_of(None)
    assert not readiness.is_ready
    assert readiness.stage == "starting"


def test_progress_counts_what_is_still_missing() -> None:
    """One of two workers ready, the other half loaded, no attention replica yet: (1 + 0.5 + 0) / 3."""
    readiness = readiness_of(status(WORKER_READY, WORKER_LOADING))
    assert readiness.progress == pytest.approx(0.5)
    assert readiness.stage == "loading experts"
    assert "worker-1: loading experts" in readiness.detail
    assert [component.progress for component in readiness.components] == [1.0, 0.5]


def test_a_supervisor_that_has_just_started_anew_does_not_undo_readiness() -> None:
    serving, empty = status(ATTENTION_READY, WORKER_READY), status(WORKER_READY)
    young, old = replace(empty, age_s=1.0), replace(empty, age_s=60.0)
    assert newest_known(serving, young) is serving
    assert newest_known(serving, old) is old
    assert newest_known(None, young) is young
    assert newest_known(empty, young) is young
    assert newest_known(serving, replace(serving, age_s=1.0)) is not serving


def test_one_attention_replica_that_serves_is_enough() -> None:
    readiness = readiness_of(status(ATTENTION_READY, WORKER_READY, WORKER_LOADING, epoch=3))
    assert readiness.is_ready
    assert readiness.fingerprint == "f00"
    assert readiness.kernel_backend == "native"
    assert readiness.max_context_tokens == 4096
    assert readiness.placement == "1 of 2 workers, 2 copies of each expert, epoch 3"


def test_a_part_that_failed_says_why() -> None:
    failed = ComponentReport("worker-1", "worker", FAILED, detail="CheckpointMissing: no such directory")
    assert "no such directory" in readiness_of(status(failed)).detail
    assert status(failed).failures == (failed,)


def test_collapsed_is_a_placement_too() -> None:
    assert placement_text(status(num_workers=0, epoch=0)).startswith("collapsed")


def test_the_balance_is_told_once_there_is_one_and_a_stop_of_it_too() -> None:
    balance = BalanceStatus(1.234, 1.3, 400.0, 17, is_stalled=False)
    balanced = replace(status(ATTENTION_READY, WORKER_READY, epoch=3), balance=balance)
    assert placement_text(balanced).endswith("epoch 3, imbalance 1.23, 17 experts moved")
    assert stats_of(balanced).balance is balance
    stalled = replace(balanced, balance=replace(balance, is_stalled=True))
    assert placement_text(stalled).endswith("17 experts moved, no round of balancing ended for 400 s")


def test_experts_on_workers_that_stand_in_are_told() -> None:
    standing_in = replace(status(ATTENTION_READY, WORKER_READY, epoch=3), num_rescued=5)
    assert placement_text(standing_in).endswith("epoch 3, 5 experts on workers that stand in")
    assert stats_of(standing_in).num_rescued == 5


def test_stats_are_sums_over_attention_replicas() -> None:
    other = ComponentReport("attention-b", "attention", READY, is_ready=True, stats={"num_running": 3, "num_tokens": 1})
    stats = stats_of(status(ATTENTION_READY, other, WORKER_READY))
    assert (stats.num_running, stats.num_tokens, stats.num_free_blocks, stats.num_engines) == (5, 11, 5, 2)
    assert stats_of(None).num_engines == 0
