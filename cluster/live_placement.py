"""LivePlacement: which worker holds which experts, where they go next, and the single next step towards that.

    plan ──▶ load what is missing ──▶ all have it: publish ──▶ nobody sends by the old one: drop what is too much

Without I/O or clock. What the workers hold is known from their own answers, so that any interruption (a worker dies, a
load fails, the supervisor starts anew) leaves a state from which the same steps lead on: a plan under way is given up,
what was loaded for it is dropped, and the published placement was at no moment without its experts.

While workers are away nothing is balanced. Experts whose last holder has gone are loaded by those that are left, in the
same steps; once all are there again, so is the placement from before. Workers join and leave in the same steps too:
those that come get a share once they are there, those that go are kept until nobody asks them any more. Without any
worker, all experts are beside attention, as soon as every attention process says that it holds them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.cluster_spec import worker_id
from cluster.experts.first_placement import Share, first_placement
from cluster.experts.placement import ExpertKey, Placement, WorkerId
from cluster.experts.rebalance import BalancePlan
from cluster.experts.rescue import num_rescued, rescued
from cluster.experts.resize import resized
from cluster.experts.traffic import TrafficReport, total_pairs, traffic_shares
from cluster.moves import DropExperts, Keys, LoadExperts, MoveAction, MovePolicy, Order, PlanMoves, PublishPlacement

LEASE_S = 20.0
"""An attention process that was silent for so long is not waited for; if it lives, workers tell it what they lack."""
ORDER_TIMEOUT_S = 120.0
"""A worker that has not loaded or dropped within this makes the plan under way fail."""
RETRY_S = 5.0
"""So long a worker that could not do what it was asked for is left alone."""
MIN_PAIRS = 1024.0
"""Fewer pairs in a layer are no traffic to learn from."""


@dataclass(slots=True)
class _Holder:
    """A worker that is there."""

    incarnation: int
    held: Keys | None = None
    """None until it has said so."""
    asked_at_s: float | None = None
    """When it was asked for what it has not done yet."""
    retry_at_s: float = 0.0


class LivePlacement:
    """The placement of one application, and its moves. Not thread-safe: one thread or event loop owns it."""

    def __init__(
        self,
        placement: Placement,
        policy: MovePolicy,
        now_s: float,
        settled: Placement | None = None,
        num_made: int = 0,
    ) -> None:
        """Begin with the published placement, in a rescue with the one to return to; workers tell what they hold.

        So many workers were made, and any of them may still be asked by an earlier placement.
        """
        self._policy = policy
        self._holders: dict[int, _Holder] = {}
        self._reports: dict[str, tuple[float, TrafficReport]] = {}
        self._next: Placement | None = None
        self._next_shares: list[Keys] = []
        self._next_settled: Placement | None = None
        self._settled = settled
        self._share: Share | None = None
        self._num_kept = num_made
        self._planned_at_s: float | None = None
        self._round_at_s = now_s
        self.num_loads = 0
        self.imbalance: float | None = None
        """At the last round, as `BalancePlan` has it; None before the first."""
        self.measured_imbalance: float | None = None
        """Pairs that the fullest worker was sent between the last two rounds, over the mean; None before the second."""
        self._pairs_at_round: Counter[WorkerId] | None = None
        self._use(placement, now_s)

    @property
    def placement(self) -> Placement:
        """Return the placement that was published last."""
        return self._placement

    @property
    def shape(self) -> tuple[int, int]:
        """Return how many layers, and experts in each, are placed."""
        return self._placement.num_layers, self._placement.num_experts

    @property
    def is_moving(self) -> bool:
        """Say whether another placement is on its way, or the last one leaves something to drop."""
        return self._next is not None or any(self._superfluous(index) for index, _ in self._counted(self._placement))

    @property
    def num_kept(self) -> int:
        """Return how many workers, by index, may still be asked for experts: those beyond may go."""
        return self._num_kept

    @property
    def num_rescued(self) -> int:
        """Return how many experts workers hold in place of workers that are, or were, away."""
        return 0 if self._settled is None else num_rescued(self._placement, self._settled)

    def round_age_s(self, now_s: float) -> float:
        """Return how long ago the last round of balancing ended."""
        return now_s - self._round_at_s

    def is_stalled(self, now_s: float) -> bool:
        """Say whether a round is long overdue: a worker is away or hangs, or planning does not end."""
        return self._policy.is_on and self.round_age_s(now_s) > 3 * self._policy.interval_s + ORDER_TIMEOUT_S

    def note_traffic(self, name: str, report: TrafficReport, now_s: float) -> None:
        """Learn what an attention process has computed, and by which epoch."""
        self._reports[name] = (now_s, report)

    def propose(self, placement: Placement) -> None:
        """Move to `placement`, whose epoch is given when it is published; what was on its way is given up."""
        self._set_next(placement)

    def obstacles(self, now_s: float) -> list[str]:
        """Return why attention processes could not hold all experts themselves."""
        self._live_reports(now_s)  # forgets those that are silent
        told = [(name, report.obstacle) for name, (_, report) in sorted(self._reports.items())]
        return [f"{name}: {obstacle}" for name, obstacle in told if obstacle]

    def resize(self, share: Share) -> None:
        """Aim at an even placement on so many workers, as soon as all of those are there."""
        self._share = share
        self._give_up()

    def planned(self, plan: BalancePlan, now_s: float) -> None:
        """Take the outcome of PlanMoves; it no longer counts if another placement has come meanwhile."""
        self._planned_at_s = None
        self._round_at_s = now_s
        self.imbalance = plan.imbalance
        is_current = plan.placement.epoch == self._placement.epoch + 1
        if is_current and self._next is None and plan.placement.copies != self._placement.copies:
            self._set_next(plan.placement)

    def done(self, order: Order, held: Keys) -> None:
        """Learn that a worker did what it was asked for, and what it holds now."""
        holder = self._holder_of(order)
        if holder is not None:
            if isinstance(order, LoadExperts) and holder.held is not None:
                self.num_loads += len(held - holder.held)
            holder.held, holder.asked_at_s = held, None

    def failed(self, order: Order, now_s: float) -> None:
        """Learn that a worker could not: it is asked again later, for the published placement."""
        holder = self._holder_of(order)
        if holder is not None:
            holder.held, holder.asked_at_s, holder.retry_at_s = None, None, now_s + RETRY_S
            self._give_up()

    def published(self, epoch: int, now_s: float) -> None:
        """Learn that the proposed placement is published, with this epoch."""
        assert self._next is not None, "nothing was to be published"
        self._use(replace(self._next, epoch=epoch), now_s)
        self._settled = self._next_settled
        self._give_up()

    def step(self, ready: Mapping[int, int], now_s: float) -> MoveAction | None:
        """Return what to do next, given the ready workers' incarnations by index; None: wait for news, or time."""
        self._meet(ready)
        if any(self._is_overdue(holder, now_s) for holder in self._holders.values()):
            self._give_up()
        if self._is_out_of_use(now_s):
            self._num_kept = self._placement.num_workers
        if self._is_to_resize(now_s):
            self._resize()
        elif all(index in ready for index in range(self._placement.num_workers)):
            self._return()
        elif not self._rescue(now_s):
            return None
        return self._load(now_s) or self._publish() or self._drop(now_s) or self._plan(now_s)

    def _meet(self, ready: Mapping[int, int]) -> None:
        """Forget workers that are gone or were made anew; nothing is known of new ones."""
        for index, holder in list(self._holders.items()):
            if ready.get(index) != holder.incarnation:
                del self._holders[index]
                self._give_up()
        for index, incarnation in ready.items():
            self._holders.setdefault(index, _Holder(incarnation))

    def _is_to_resize(self, now_s: float) -> bool:
        """Say whether the placement is on other workers than wanted, and all that are wanted are here."""
        share = self._share
        if share is None or share.num_workers == self._placement.num_workers:
            return False
        if share.num_workers == 0:
            reports = self._live_reports(now_s)
            return bool(reports) and all(report.has_all for _, report in reports)
        return all(index in self._holders for index in range(share.num_workers))

    def _resize(self) -> None:
        share, placement = self._share, self._placement
        assert share is not None, "no other size is wanted"
        if self._next is not None and self._next.num_workers == share.num_workers:
            return
        if share.num_workers == 0 or placement.is_collapsed:
            self._set_next(first_placement(share, *self.shape))
        else:
            workers = [worker_id(index) for index in range(share.num_workers)]
            self._set_next(resized(placement, workers, share.copies, share.num_spare_slots))

    def _return(self) -> None:
        """Aim at what was before a rescue: all are here."""
        if self._next_settled is not None:
            self._give_up()
        if self._next is None and self._settled is not None:
            self._set_next(self._settled)

    def _rescue(self, now_s: float) -> bool:
        """Aim at a copy of every expert on those that are left; say whether there is anything to do for it."""
        if self._next is not None and self._next_settled is None:
            self._give_up()  # it counts on somebody who is away
        if self._next is None:
            settled = self._settled or self._placement
            able = [index for index, holder in self._counted(self._placement) if now_s >= holder.retry_at_s]
            most = self._policy.max_rescued_experts
            placement = rescued(self._placement, settled, self._holders, able, most)
            if placement is not None:
                self._set_next(placement)
                self._next_settled = settled
        return self._next is not None

    def _load(self, now_s: float) -> LoadExperts | None:
        epoch = self._placement.epoch + (self._next is not None)
        for index, holder in self._counted(self._next or self._placement):
            if holder.asked_at_s is None and now_s >= holder.retry_at_s:
                missing = self._wanted(index) - (holder.held or frozenset())
                if missing or holder.held is None:
                    holder.asked_at_s = now_s
                    return LoadExperts(index, holder.incarnation, epoch, missing)
        return None

    def _publish(self) -> PublishPlacement | None:
        if self._next is None:
            return None
        counted = [holder for _, holder in self._counted(self._next)]
        is_loaded = all(holder.held is not None and holder.asked_at_s is None for holder in counted)
        return PublishPlacement(self._next, self._next_settled) if is_loaded else None

    def _drop(self, now_s: float) -> DropExperts | None:
        if self._next is not None or not self._is_out_of_use(now_s):
            return None
        for index, holder in self._counted(self._placement):
            superfluous = self._superfluous(index)
            if superfluous and holder.asked_at_s is None:
                holder.asked_at_s = now_s
                return DropExperts(index, holder.incarnation, self._placement.epoch, superfluous)
        return None

    def _plan(self, now_s: float) -> PlanMoves | None:
        is_due = self._policy.is_on and now_s - self._round_at_s >= self._policy.interval_s
        is_due &= not self._placement.is_collapsed
        if not is_due or self._planned_at_s is not None or not self._is_idle or self.is_moving:
            return None
        if any(holder.held is None for _, holder in self._counted(self._placement)):
            return None
        pairs = total_pairs((report for _, report in self._live_reports(now_s)), self.shape)
        if pairs.sum(axis=1).min() < MIN_PAIRS:
            self._round_at_s = now_s  # looked, and found too little to learn from
            return None
        self._planned_at_s = now_s
        self._measure(now_s)
        return PlanMoves(self._placement, traffic_shares(pairs), self._policy.limits)

    def _measure(self, now_s: float) -> None:
        """Compare what the workers were really sent; a process that went away takes its counts along."""
        pairs: Counter[WorkerId] = Counter()
        for _, report in self._live_reports(now_s):
            pairs.update(report.pairs_by_worker)
        before, self._pairs_at_round = self._pairs_at_round, pairs
        if before is not None:
            sent = [max(0, pairs[worker] - before[worker]) for worker in self._placement.workers]
            self.measured_imbalance = max(sent) * len(sent) / sum(sent) if any(sent) else None

    def _counted(self, placement: Placement) -> list[tuple[int, _Holder]]:
        """Return those of the workers of a placement that are there, by index: none that only joins, or leaves."""
        return [(index, holder) for index, holder in sorted(self._holders.items()) if index < placement.num_workers]

    @property
    def _is_idle(self) -> bool:
        return all(holder.asked_at_s is None for holder in self._holders.values())

    def _is_overdue(self, holder: _Holder, now_s: float) -> bool:
        return holder.asked_at_s is not None and now_s - holder.asked_at_s > ORDER_TIMEOUT_S

    def _is_out_of_use(self, now_s: float) -> bool:
        """Say whether nobody sends by an older epoch than the published placement's any more."""
        live = self._live_reports(now_s)
        if not live or any(at_s < self._used_since_s for at_s, _ in live):
            return now_s - self._used_since_s >= LEASE_S
        return all(report.epoch >= self._placement.epoch for _, report in live)

    def _live_reports(self, now_s: float) -> list[tuple[float, TrafficReport]]:
        for name in [name for name, (at_s, _) in self._reports.items() if now_s - at_s > LEASE_S]:
            del self._reports[name]
        return list(self._reports.values())

    def _wanted(self, index: int) -> Keys:
        return (self._shares if self._next is None else self._next_shares)[index]

    def _superfluous(self, index: int) -> Keys:
        """Return what a worker holds that no placement, published or on its way, has on it."""
        held = self._holders[index].held or frozenset()
        return held.difference(*(shares[index] for shares in (self._shares, self._next_shares) if index < len(shares)))

    def _holder_of(self, order: Order) -> _Holder | None:
        holder = self._holders.get(order.index)
        return holder if holder is not None and holder.incarnation == order.incarnation else None

    def _use(self, placement: Placement, now_s: float) -> None:
        self._placement = placement
        self._num_kept = max(self._num_kept, placement.num_workers)
        self._shares = shares_by_worker(placement)
        self._used_since_s = now_s

    def _set_next(self, placement: Placement) -> None:
        self._next, self._next_settled = placement, None
        self._next_shares = shares_by_worker(placement)

    def _give_up(self) -> None:
        self._next = self._next_settled = None
        self._next_shares = []


def shares_by_worker(placement: Placement) -> list[Keys]:
    """Return the experts of each worker of a placement, in the order of its workers; those beside attention of none."""
    if placement.is_collapsed:
        return []
    shares: list[set[ExpertKey]] = [set() for _ in placement.workers]
    for layer, experts in enumerate(placement.copies):
        for expert, indices in enumerate(experts):
            for index in indices:
                shares[index].add((layer, expert))
    return [frozenset(share) for share in shares]
