"""Bugs put in on purpose, one at a time: some seed of the simulation catches each, so the simulation can fail."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from cluster.cluster_status import Membership
from cluster.engine.block_manager import BlockManager
from cluster.engine.engine import Engine
from cluster.engine.live_sequence import LiveSequence
from cluster.experts.dispatch_events import StreamBroken
from cluster.experts.layer_work import LayerWork
from cluster.experts.messages import ExpertReply
from cluster.experts.reachable_copies import ReachableCopies
from cluster.experts.token_dispatcher import TokenDispatcher
from cluster.live_placement import LivePlacement
from cluster.supervision import Supervision
from router.journal import Journal
from tests.simulation import paper_model
from tests.simulation.cluster import SimulatedCluster

MOST_SEEDS = 400
"""What catches a bug changes with whatever changes the order of events."""

Patch = Callable[[pytest.MonkeyPatch], None]


def combine_by_arrival(patch: pytest.MonkeyPatch) -> None:
    """Outputs are added in the order in which workers answered."""
    fill = LayerWork.fill
    arrivals: dict[LayerWork, dict[int, None]] = {}

    def fill_and_note(work: LayerWork, positions: Any, outputs: Any) -> int:
        arrivals.setdefault(work, {}).update(dict.fromkeys(positions.tolist()))  # a pair answered twice keeps its place
        return fill(work, positions, outputs)

    def outputs_by_arrival(work: LayerWork) -> torch.Tensor:
        rows = work._outputs  # pyright: ignore[reportPrivateUsage]
        num_tokens, num_chosen = work.submit.expert_ids.shape
        order = [at for t in range(num_tokens) for at in arrivals[work] if at // num_chosen == t]
        return rows[order].view(num_tokens, num_chosen, -1)

    patch.setattr(LayerWork, "fill", fill_and_note)
    patch.setattr(LayerWork, "outputs", outputs_by_arrival)


def partial_sums(patch: pytest.MonkeyPatch) -> None:
    """The last two pairs of a token are added before the others."""

    def combine(outputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        weighed = outputs * weights[:, :, None]
        return (weighed[:, 0] + weighed[:, 1]) + (weighed[:, 2] + weighed[:, 3])

    patch.setattr(paper_model, "combine", combine)


def stale_answer_accepted(patch: pytest.MonkeyPatch) -> None:
    """An answer counts for whatever its worker owes."""
    answered = TokenDispatcher._answered  # pyright: ignore[reportPrivateUsage]

    def accept(self: TokenDispatcher, event: Any, now_s: float) -> Any:
        owed = [sent for sent in self._sent.values() if sent.worker == event.worker]  # pyright: ignore[reportPrivateUsage]
        if isinstance(event.answer, ExpertReply) and owed and event.answer.key not in [sent.key for sent in owed]:
            rows = event.answer.outputs[: owed[0].positions.shape[0]]
            if rows.shape[0] == owed[0].positions.shape[0]:
                event = replace(event, answer=replace(event.answer, key=owed[0].key, outputs=rows))
        return answered(self, event, now_s)

    patch.setattr(TokenDispatcher, "_answered", accept)


def lost_rows_not_sent_again(patch: pytest.MonkeyPatch) -> None:
    """What a broken stream owed is forgotten."""
    patch.setattr(TokenDispatcher, "_resend", lambda *_: [])


def broken_stream_unheard(patch: pytest.MonkeyPatch) -> None:
    """Nobody listens when a stream breaks."""
    on = TokenDispatcher.on
    patch.setattr(
        TokenDispatcher, "on", lambda self, e, now_s: [] if isinstance(e, StreamBroken) else on(self, e, now_s)
    )


def newcomer_not_asked(patch: pytest.MonkeyPatch) -> None:
    """Rows that waited for a worker are not sent when it comes."""
    patch.setattr(TokenDispatcher, "_dispatch_unplaced", lambda *_: [])
    patch.setattr(TokenDispatcher, "_retry", lambda *_: [])


def dead_worker_asked(patch: pytest.MonkeyPatch) -> None:
    """Workers without a stream are asked too."""
    patch.setattr(ReachableCopies, "broken", lambda *_: None)


def lost_abort(patch: pytest.MonkeyPatch) -> None:
    """A cancel does not reach the sequence."""
    patch.setattr(Engine, "_abort", lambda *_: [])


def blocks_kept_at_the_end(patch: pytest.MonkeyPatch) -> None:
    """A sequence that ended keeps its blocks."""
    patch.setattr(BlockManager, "release", lambda *_: None)


def preempted_but_not_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A preempted sequence goes on as if its keys and values were still there."""
    apply = Engine._apply  # pyright: ignore[reportPrivateUsage]

    def keep_computed(self: Engine, step: Any) -> None:
        computed = [(sequence, sequence.num_computed) for sequence in step.preempted]
        apply(self, step)
        for sequence, num_computed in computed:
            sequence.num_computed = num_computed

    patch.setattr(Engine, "_apply", keep_computed)


def told_twice(patch: pytest.MonkeyPatch) -> None:
    """Every token is told with the index of the one before."""
    event = LiveSequence.event

    def tell(self: LiveSequence, *args: Any, **named: Any) -> Any:
        told = event(self, *args, **named)
        return replace(told, index=max(0, told.index - 1))

    patch.setattr(LiveSequence, "event", tell)


def acted_before_stored(patch: pytest.MonkeyPatch) -> None:
    """The supervisor makes workers without writing down that it does."""
    create = Supervision._create  # pyright: ignore[reportPrivateUsage]

    def forget(self: Supervision, index: int, incarnation: int) -> None:
        before = self._stored  # pyright: ignore[reportPrivateUsage]
        create(self, index, incarnation)
        self._machinery.store(before)  # pyright: ignore[reportPrivateUsage]

    patch.setattr(Supervision, "_create", forget)


def dead_worker_not_replaced(patch: pytest.MonkeyPatch) -> None:
    """The supervisor does not hear of deaths."""
    patch.setattr(Supervision, "worker_lost", lambda *_: None)


def published_before_loaded(patch: pytest.MonkeyPatch) -> None:
    """A placement is published before its experts are loaded."""
    patch.setattr(LivePlacement, "_wanted", lambda self, index: self._shares[index])  # pyright: ignore[reportPrivateUsage, reportUnknownLambdaType, reportUnknownMemberType]


def older_attempt_believed(patch: pytest.MonkeyPatch) -> None:
    """What a replica said before it was given up is released, whoever runs the sequence now."""
    on_event = Journal.on_event

    def believe(self: Journal, event: Any, now_s: float) -> Any:
        return on_event(self, replace(event, attempt=self._attempt), now_s)  # pyright: ignore[reportPrivateUsage]

    patch.setattr(Journal, "on_event", believe)


def released_taken_for_prompt(patch: pytest.MonkeyPatch) -> None:
    """A resume forgets that the last ids were output: limits and penalties begin anew."""
    next_attempt = Journal.next_attempt

    def forget(self: Journal) -> Any:
        attempt = next_attempt(self)
        return None if attempt is None else replace(attempt, num_released=0)

    patch.setattr(Journal, "next_attempt", forget)


def cancelled_but_resumed(patch: pytest.MonkeyPatch) -> None:
    """A cancel between two attempts is forgotten."""
    patch.setattr(Journal, "cancel", lambda *_: None)


def loss_not_resumed(patch: pytest.MonkeyPatch) -> None:
    """Nothing follows the loss of a replica."""
    patch.setattr(Journal, "on_lost", lambda *_: None)


def leaver_let_go_at_once(patch: pytest.MonkeyPatch) -> None:
    """A worker goes as soon as fewer are wanted."""
    patch.setattr(LivePlacement, "num_kept", 0)


def newcomers_never_counted(patch: pytest.MonkeyPatch) -> None:
    """Whoever joins gets no share."""
    patch.setattr(LivePlacement, "resize", lambda *_: None)


def leavers_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A supervisor that starts anew keeps only the workers of the newest placement."""
    begin = LivePlacement.__init__

    def forget(live: LivePlacement, *arguments: Any) -> None:
        begin(live, *arguments[:4])

    patch.setattr(LivePlacement, "__init__", forget)


def nobody_to_begin_with(patch: pytest.MonkeyPatch) -> None:
    """An attention process waits for workers where none is wanted."""
    patch.setattr(Membership, "needs_no_worker", property(lambda membership: membership.is_collapsed))


BUGS: tuple[Patch, ...] = (
    combine_by_arrival,
    partial_sums,
    stale_answer_accepted,
    lost_rows_not_sent_again,
    broken_stream_unheard,
    newcomer_not_asked,
    dead_worker_asked,
    lost_abort,
    blocks_kept_at_the_end,
    preempted_but_not_forgotten,
    told_twice,
    acted_before_stored,
    dead_worker_not_replaced,
    published_before_loaded,
    older_attempt_believed,
    released_taken_for_prompt,
    cancelled_but_resumed,
    loss_not_resumed,
    leaver_let_go_at_once,
    newcomers_never_counted,
    leavers_forgotten,
    nobody_to_begin_with,
)


TRIED_FIRST: dict[Patch, int] = {
    stale_answer_accepted: 46,
    broken_stream_unheard: 36,
    dead_worker_asked: 36,
    acted_before_stored: 111,
    published_before_loaded: 8,
    cancelled_but_resumed: 39,
    leaver_let_go_at_once: 80,
    newcomers_never_counted: 44,
    leavers_forgotten: 820,
    nobody_to_begin_with: 2436,
}
"""Seeds that have caught bugs which few do: they save a minute as long as they do, and nothing depends on them."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_some_seed_catches_the_bug(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    for seed in (TRIED_FIRST.get(bug, 0), *range(MOST_SEEDS)):
        try:
            SimulatedCluster(seed).run()
        except (AssertionError, LookupError, RuntimeError, ValueError):  # a crash is noticed as well
            return
    pytest.fail(f"{MOST_SEEDS} seeds do not notice that {(bug.__doc__ or '').lower()}")
