"""Attention and experts on different hardware: workers agree among themselves, and one fingerprint names both roles.

The workers are servers in this process whose fingerprints are made by hand.
"""

import queue
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from cluster.attention_side import AttentionLoader, AttentionSide
from cluster.cluster_spec import ClusterSpec, worker_id
from cluster.cluster_status import Member, Membership
from cluster.config import AttentionSection, EngineSection, ExpertsSection, ModelSection, NumericsSection
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.errors import EngineStopped, HandshakeRefused, WorkerLost
from cluster.experts.expert_host import ExpertHost, WorkerIdentity
from cluster.experts.first_placement import first_placement, share_of
from cluster.experts.handshake import Agreement, model_digest
from cluster.experts.server import ExpertServer, ServerOptions
from cluster.model_source import open_model
from cluster.remote_side import connect_experts, frame_format_of
from cluster.shard_loading import load_shard
from model.checkpoint.write import write_random_checkpoint
from model.fingerprint import joint_fingerprint
from model.load import LoadProgress
from model.sampling_params import SamplingParams
from tests.cluster.experts.hand import until
from tests.support.random_model import random_config

SECRET = "a secret of the cluster"
CONFIG = random_config(num_layers=2, num_experts=8)
WAIT_S = 60.0


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ClusterSpec:
    path = write_random_checkpoint(tmp_path_factory.mktemp("model") / "random", CONFIG, seed=21)
    return ClusterSpec(
        "hardware-test",
        ModelSection(path=str(path)),
        NumericsSection(),
        EngineSection(max_step_tokens=64, kv_cache_bytes=1 << 22),
        ExpertsSection(num_workers=2, connect_timeout_s=5.0),
        AttentionSection(),
    )


def ignore(progress: LoadProgress) -> None:
    """Tell nobody."""


@contextmanager
def workers(spec: ClusterSpec, *fingerprints: str) -> Generator[Membership]:
    """Serve the experts on workers with these fingerprints; give the membership that they are."""
    checkpoint = open_model(spec.model.path)
    members: list[Member] = []
    with ExitStack() as stack:
        for index, fingerprint in enumerate(fingerprints):
            placement = first_placement(share_of(spec.experts), CONFIG.num_layers, CONFIG.num_experts)
            share = placement.experts_on(worker_id(index))
            loaded = load_shard(checkpoint, (spec.model, spec.numerics), "cpu", share, ignore)
            identity = WorkerIdentity(worker_id(index), Agreement(model_digest(checkpoint), fingerprint))
            host = ExpertHost(loaded.shard, frame_format_of(spec, CONFIG), identity, loaded.source.expert)
            server = ExpertServer(host, ServerOptions(SECRET))
            stack.callback(server.stop)
            members.append(Member(worker_id(index), index, 1, f"127.0.0.1:{server.start()}", fingerprint))
        yield Membership(0, len(members), 1, tuple(members))


@contextmanager
def attention(spec: ClusterSpec, membership: Membership) -> Generator[AttentionSide]:
    """Give an attention side on this machine's CPU."""
    loader = AttentionLoader(spec, ignore)
    side = loader.finish(loader.load_dense(), membership, SECRET)
    try:
        yield side
    finally:
        side.close()


def last_event(side: AttentionSide) -> TokenEvent:
    """Run a sequence to its end."""
    steps: queue.SimpleQueue[list[TokenEvent]] = queue.SimpleQueue()
    side.engine.on_step = steps.put
    side.engine.admit(SequenceRequest("s", (1, 2, 3), SamplingParams(max_tokens=2, seed=0, ignore_eos=True)))
    while True:
        (event,) = steps.get(timeout=WAIT_S)
        if event.finish_reason is not None:
            return event


def test_workers_may_have_other_hardware_than_attention(spec: ClusterSpec) -> None:
    own = AttentionLoader(spec, ignore).fingerprint
    names: set[str] = set()
    for experts in ("an accelerator", "another processor"):
        with workers(spec, experts, experts) as membership, attention(spec, membership) as side:
            assert last_event(side).finish_reason is FinishReason.LENGTH
            assert side.fingerprint == joint_fingerprint(own, experts)
            names.add(side.fingerprint)
    with workers(spec, own, own) as membership, attention(spec, membership) as side:
        names.add(side.fingerprint)
    assert len(names) == 3


def test_a_worker_unlike_the_first_is_refused_by_name_with_both_values(spec: ClusterSpec) -> None:
    differs = pytest.raises(HandshakeRefused, match="worker-1: fingerprint 'Xeon' is not 'EPYC'")
    with workers(spec, "Xeon", "EPYC") as membership, differs:
        connect_experts(spec, open_model(spec.model.path), membership, SECRET)


def test_no_sequence_goes_on_with_workers_of_other_bits(spec: ClusterSpec) -> None:
    """All workers were lost and came back elsewhere: the replica ends, and Serve makes one that begins with them."""
    with workers(spec, "old", "old") as membership, attention(spec, membership) as side:
        side.publish(replace(membership, epoch=1, members=()))
        assert side.engine.stopped_because is None
        side.publish(replace(membership, epoch=2))
        assert last_event(side).finish_reason is FinishReason.LENGTH
        with workers(spec, "new", "new") as other:
            side.publish(replace(other, epoch=3))
            with pytest.raises(EngineStopped, match="fingerprint is new, that of the ones before was old"):
                last_event(side)
            with attention(spec, other) as fresh:
                assert last_event(fresh).finish_reason is FinishReason.LENGTH
        until(lambda: not side.engine.stats().num_running)


def test_without_any_worker_there_is_nothing_to_connect_to(spec: ClusterSpec) -> None:
    with pytest.raises(WorkerLost, match="none of the 2 expert workers is there"):
        connect_experts(spec, open_model(spec.model.path), Membership(3, 2, 1, ()), SECRET)
