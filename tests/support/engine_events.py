"""Running an engine thread over requests and gathering what it tells."""

import threading
from collections import defaultdict
from collections.abc import Sequence

from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.engine.stats import EngineStats
from cluster.standalone import Standalone

WAIT_S = 120.0


def collect(
    standalone: Standalone, requests: Sequence[SequenceRequest]
) -> tuple[dict[str, list[TokenEvent]], EngineStats]:
    """Run all `requests` together to their ends; return events by sequence and the last counts. Ends the engine."""
    events: dict[str, list[TokenEvent]] = defaultdict(list)
    open_names, is_over = {one.sequence_id for one in requests}, threading.Event()

    def on_step(told: list[TokenEvent]) -> None:
        for event in told:
            events[event.sequence_id].append(event)
            if event.finish_reason is not None:
                open_names.discard(event.sequence_id)
        if not open_names:
            is_over.set()

    standalone.start(on_step)
    try:
        for one in requests:
            standalone.engine.admit(one)
        assert is_over.wait(WAIT_S), f"{open_names} did not end"
        standalone.engine.check_integrity()
        stats = standalone.engine.stats()
    finally:
        standalone.stop()
    assert stats.num_used_blocks == (0, 0), "blocks have leaked"
    return dict(events), stats
