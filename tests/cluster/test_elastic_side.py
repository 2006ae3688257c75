"""Where an attention process finds its experts: what it does when it cannot do what a membership asks."""

import threading
import time
from dataclasses import dataclass, field, replace

import pytest

from cluster.cluster_status import Membership
from cluster.elastic_side import ElasticSide
from cluster.errors import HandshakeRefused, WorkerLost
from cluster.experts.placement import Placement
from cluster.remote_side import RemoteSide
from tests.cluster.experts.hand import HandShard
from tests.support.random_model import random_config

CONFIG = random_config()
WAIT_S = 20.0


@dataclass
class HandHome:
    """A home without workers; loading waits until it is let through, and may fail."""

    failures: list[Exception] = field(default_factory=list[Exception])
    differs: str = ""
    gate: threading.Event = field(default_factory=threading.Event)
    num_loads: int = 0

    def load(self) -> HandShard:
        assert self.gate.wait(WAIT_S)
        self.num_loads += 1
        if self.failures:
            raise self.failures.pop()
        return HandShard({(layer, e) for layer in range(CONFIG.num_layers) for e in range(CONFIG.num_experts)})

    def connect(self, membership: Membership) -> RemoteSide:
        raise WorkerLost("none of the workers is there")

    def difference(self, fingerprint: str | None) -> str:
        return self.differs

    def shortage(self) -> str:
        return ""


def membership(epoch: int, num_workers: int) -> Membership:
    """Return a membership without members, of a placement on so many workers."""
    workers, sizes = [f"worker-{index}" for index in range(num_workers)], (CONFIG.num_layers, CONFIG.num_experts)
    placed = Placement.uniform(*sizes, workers, epoch=epoch) if workers else Placement.collapsed(*sizes, epoch)
    return Membership(epoch, num_workers, 1, (), placement=placed, wants_local=not workers)


def begun(home: HandHome) -> ElasticSide:
    """Return a side whose experts are all here, at epoch 1."""
    home.gate.set()
    side = ElasticSide(CONFIG, home)
    side.begin(membership(1, 0))
    return side


def test_a_step_has_its_experts_from_its_first_layer_to_its_last() -> None:
    side = begun(HandHome())
    with side.lent.lend() as experts:
        side.follow(membership(5, 0))
        assert side.epoch_in_use == 5, "the same experts, so the newer epoch counts at once"
        assert side.lent.in_use == (experts, experts)
    assert side.lent.in_use == (experts,)


def test_without_workers_to_reach_the_experts_stay_here() -> None:
    side = begun(HandHome())
    side.follow(membership(2, 2))
    assert side.traffic_report().has_all
    assert (side.epoch_in_use, side.is_behind) == (1, True)


def test_workers_with_other_bits_are_not_asked() -> None:
    side = begun(home := HandHome())
    home.differs = "other bits"
    side.follow(membership(2, 2))
    assert (side.epoch_in_use, side.is_behind) == (1, True)


def test_it_begins_here_where_workers_are_gone_for_good_and_stays_until_others_are_there() -> None:
    """All experts were to come here when the last worker and the attention process died: nobody makes either first."""
    home = HandHome()
    home.gate.set()
    side = ElasticSide(CONFIG, home)
    side.begin(replace(membership(1, 2), wants_local=True))
    assert (side.epoch_in_use, side.is_behind, side.traffic_report().has_all) == (1, False, True)
    side.follow(membership(2, 0))
    assert (side.epoch_in_use, side.is_behind) == (2, False)
    side.follow(membership(3, 2))
    assert (side.epoch_in_use, side.is_behind, side.traffic_report().has_all) == (2, True, True)


def test_experts_with_other_bits_never_take_over_from_workers() -> None:
    side = begun(home := HandHome())
    home.differs = "other bits"
    report = side.traffic_report()
    assert (report.has_all, report.obstacle) == (False, "other bits")
    with pytest.raises(HandshakeRefused, match="other bits"):
        side.follow(membership(2, 0))
    assert side.epoch_in_use == 1


def test_an_older_membership_changes_nothing() -> None:
    side = begun(HandHome())
    side.follow(membership(4, 0))
    side.follow(membership(3, 2))
    assert (side.epoch_in_use, side.is_behind) == (4, False)


def test_workers_that_cannot_be_reached_at_first_are_told() -> None:
    side = ElasticSide(CONFIG, HandHome())
    with pytest.raises(WorkerLost):
        side.begin(membership(1, 2))


def test_experts_that_cannot_be_loaded_are_tried_again_with_the_next_membership() -> None:
    home = HandHome(failures=[OSError("the disk is gone")])
    side = ElasticSide(CONFIG, home)
    side.follow(membership(1, 0))
    assert not side.traffic_report().has_all
    home.gate.set()
    deadline_s = time.monotonic() + WAIT_S
    while not side.traffic_report().has_all:
        side.follow(membership(1, 0))
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    assert home.num_loads == 2
    assert (side.epoch_in_use, side.is_behind) == (1, False)
