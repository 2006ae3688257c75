"""Engine and edge are really asked the same, over a real engine with random weights, and nothing is left."""

import pytest

from cluster.standalone import Standalone, StandaloneSections
from model.checkpoint.random_weights import RandomWeights
from model.vocabulary import VOCAB_SIZE
from router.config import parse_config
from router.edge_bench.contest import EDGE, ENGINE, SERVER, EdgeBench
from router.edge_bench.figures import rows_of
from router.edge_bench.load import Load
from router.edge_bench.rig import EdgeRig
from router.errors import StartFailed
from tests.support.random_model import random_config

LOAD = Load(3, 2, 6)


def rig() -> EdgeRig:
    """Return a rig over a small model with the whole vocabulary."""
    document = {"form": "standalone", "engine": {"kv_cache_bytes": 1 << 24}, "model": {"max_context_tokens": 256}}
    config = parse_config(document, "the test")
    sections = StandaloneSections(config.model, config.numerics, config.engine, config.attention)
    weights = RandomWeights(random_config(num_layers=1, num_experts=4, vocab_size=VOCAB_SIZE), seed=3)
    return EdgeRig(Standalone.of(weights, sections), config)


def test_all_programs_answer_the_same_and_leave_nothing() -> None:
    with rig() as one:
        bench = EdgeBench(one, 1, lambda _: None)
        bench.server = (*one.address, one.model)
        (result,) = bench.run([LOAD])
        bench.server = (*one.address, "another-model")
        with pytest.raises(StartFailed, match="404"):
            list(bench.run([LOAD]))
        one.check_integrity()
    engine, edge, server = (result.samples[name][0] for name in (ENGINE, EDGE, SERVER))
    assert engine.texts == edge.texts == server.texts
    assert len(engine.texts) == 6
    assert (len(edge.first_s), len(edge.crowd_first_s), len(edge.before_s)) == (3, 3, 3)
    assert all(one >= 0 for one in (*edge.before_s, *edge.after_s)), "no token is read before it is said"
    assert len(edge.after_s) == len(engine.gaps_s) + 6 == len(edge.gaps_s) + 6
    assert [row["program"] for row in rows_of(result)] == [ENGINE, EDGE, SERVER]
