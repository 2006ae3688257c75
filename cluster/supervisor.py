"""Supervisor: the detached actor that owns an application's expert workers. A thin driver of `Supervision`.

There is one for each revision of an application, found by its name. It makes workers, notices their deaths, publishes
memberships, collects everybody's progress, and ends everything once nobody wants it: its owner fell silent, the
application was deleted, or another revision took over. What it must remember lies in Ray's internal KV.
"""

import asyncio
import logging
import secrets
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.clock import Clock, MonotonicClock
from cluster.cluster_spec import ClusterSpec, worker_id
from cluster.cluster_status import FAILED, READY, ClusterStatus, ComponentReport, Member, Membership
from cluster.errors import PlacementError
from cluster.expert_worker import WorkerSeat
from cluster.experts.first_placement import share_of
from cluster.experts.placement import ExpertKey
from cluster.experts.rebalance import BalancePlan
from cluster.experts.traffic import TrafficReport
from cluster.moves import Order, move_policy
from cluster.ray_machinery import Listener, RayMachinery, start_or_die
from cluster.ray_runtime import NAMESPACE, read_value, write_value
from cluster.reconcile import Rest
from cluster.stored_state import StoredState
from cluster.supervision import Supervision
from cluster.worker_scaling import WorkerScaling

TICK_S = 0.5
WATCH_TIMEOUT_S = 2.0
"""How long `watch` waits for a newer epoch before it returns without one."""
ATTENDED_S = 3 * WATCH_TIMEOUT_S
REPORT_LIFE_S = 20.0
"""A replica that has not reported for so long is no longer counted."""
_OBSERVE_INTERVAL_S = 5.0

logger = logging.getLogger(__name__)


def connect_supervisor(spec: ClusterSpec) -> Any:
    """Get or create the supervisor of a revision, and put that revision in charge of its application.

    Racing callers get the same one. It is detached: neither its creator's end nor Serve's touches it.
    """
    write_value(spec.current_key, spec.revision)
    options = {
        "name": spec.supervisor_name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "num_cpus": 0,
        "max_concurrency": 1000,
    }
    return ray.remote(Supervisor).options(**options).remote(spec)


def find_supervisor(spec: ClusterSpec) -> Any:
    """Return the supervisor of a revision; raises ValueError if there is none."""
    return ray.get_actor(spec.supervisor_name, namespace=NAMESPACE)


class Supervisor:
    """The actor. All of it runs in one event loop; its methods are what others may ask of it."""

    def __init__(self, spec: ClusterSpec, clock: Clock | None = None) -> None:
        """Begin from the stored state, adopt the workers that still live, and start to reconcile."""
        self._spec = spec
        self._clock = clock or MonotonicClock()
        self._started_s = self._clock.now_s()
        stored = read_value(spec.state_key)
        state = StoredState(secrets.token_hex(32)) if stored is None else StoredState.from_json(stored)
        self._machinery = RayMachinery(spec, state.secret, self._listener())
        share, policy = share_of(spec.experts), move_policy(spec.experts)
        self._supervision = Supervision(share, state, self._machinery, self._clock, policy)
        scaling = spec.experts.scaling
        self._scaling = None if scaling is None else WorkerScaling(scaling, spec.experts.copies)
        self._reports: dict[str, tuple[float, ComponentReport]] = {}
        self._published = asyncio.Condition()
        self._wake = asyncio.Event()
        self._adopt_workers(state)
        self._tasks = [start_or_die(self._drive()), start_or_die(self._observe())]

    async def watch(
        self, report: ComponentReport, after_epoch: int, traffic: TrafficReport | None = None
    ) -> Membership | None:
        """Take a replica's reports, and return a membership newer than `after_epoch` once there is one.

        Returns None after WATCH_TIMEOUT_S: the caller reports again and goes on watching.
        """
        self._note(report)
        if traffic is not None:
            self._supervision.note_traffic(report.name, traffic)
        try:
            async with asyncio.timeout(WATCH_TIMEOUT_S), self._published:
                await self._published.wait_for(lambda: self._is_newer(after_epoch))
        except TimeoutError:
            return None
        return self._supervision.membership

    async def report(self, report: ComponentReport) -> None:
        """Take a report of how far a process has come."""
        self._note(report)

    async def status(self) -> ClusterStatus:
        """Return how the cluster stands."""
        self._forget_silent()
        membership = self._supervision.membership
        return ClusterStatus(
            revision=self._spec.revision,
            epoch=membership.epoch if membership else None,
            num_workers=self._supervision.num_workers,
            copies=self._spec.experts.copies,
            components=tuple(report for _, (_, report) in sorted(self._reports.items())),
            is_wanted=self._supervision.stored.is_wanted,
            age_s=self._clock.now_s() - self._started_s,
            balance=self._supervision.balance(),
            num_rescued=self._supervision.num_rescued,
            num_placed=self._supervision.num_placed,
        )

    async def secret(self) -> str:
        """Return the cluster's secret, which every internal handshake needs."""
        return self._supervision.stored.secret

    async def scale(self, num_workers: int) -> None:
        """Want so many expert workers from now on; returns before they are there, or gone.

        Raises PlacementError saying why there cannot be so many.
        """
        if self._scaling is not None:
            raise PlacementError("the load decides how many workers there are (experts.scaling)")
        self._supervision.scale(num_workers)
        self._wake.set()

    async def renew_lease(self, lease_s: float) -> None:
        """Take a sign of life of the foreground owner: after `lease_s` without another, all is taken down."""
        self._supervision.renew_lease(lease_s)

    async def abandon(self) -> None:
        """Take everything down: the application, the workers, this actor."""
        self._supervision.abandon()
        self._wake.set()

    def _listener(self) -> Listener:
        return Listener(self._worker_ready, self._worker_lost, self._moved, self._planned)

    def _worker_ready(self, member: Member) -> None:
        refusal = self._supervision.worker_ready(member)
        if refusal is not None:
            logger.error("%s, incarnation %d: %s", member.worker_id, member.incarnation, refusal)
            self._note(ComponentReport(member.worker_id, "worker", FAILED, detail=refusal))
        elif not self._is_reported_ready(member.worker_id):
            # Its own report may have been lost while this supervisor was being made anew.
            detail = f"{member.address}, incarnation {member.incarnation}"
            self._note(ComponentReport(member.worker_id, "worker", READY, is_ready=True, detail=detail))
        self._wake.set()

    def _worker_lost(self, seat: WorkerSeat, stage: str, reason: str) -> None:
        logger.warning("%s, incarnation %d: %s: %s", seat.worker_id, seat.incarnation, stage, reason)
        self._supervision.worker_lost(seat.index, seat.incarnation)
        self._note(ComponentReport(seat.worker_id, "worker", stage, detail=reason))
        self._wake.set()

    def _moved(self, order: Order, held: frozenset[ExpertKey] | None) -> None:
        if held is None:
            self._supervision.move_failed(order)
        else:
            self._supervision.moved(order, held)
        self._wake.set()

    def _planned(self, plan: BalancePlan) -> None:
        self._supervision.planned(plan)
        self._wake.set()

    async def _drive(self) -> None:
        """Act until nothing is left to do, then wait for an event or the next tick."""
        while True:
            epoch = self._epoch()
            self._follow_load()
            self._act()
            if self._epoch() != epoch:
                async with self._published:
                    self._published.notify_all()
            await self._sleep()

    def _follow_load(self) -> None:
        """Ask for more or fewer workers, if the config says so, by what the attention replicas last told."""
        told = [report.stats for _, report in self._reports.values() if report.role == "attention" and report.is_ready]
        if self._scaling is None or not told:
            return
        num_sequences = int(sum(stats.get("num_running", 0) + stats.get("num_waiting", 0) for stats in told))
        wanted = self._scaling.wanted(num_sequences, self._supervision.num_workers, self._clock.now_s())
        if wanted is None:
            return
        try:
            self._supervision.scale(wanted)
        except PlacementError as error:
            logger.warning("%d workers are wanted for %d sequences: %s", wanted, num_sequences, error)

    def _act(self) -> None:
        try:
            while not isinstance(self._supervision.step(), Rest):
                pass
        except RayError:
            logger.exception("an action failed; it is tried again at the next tick")

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()

    async def _observe(self) -> None:
        """Look at what tells nothing by itself: other revisions, and the application in front."""
        while True:
            is_current = read_value(self._spec.current_key) == self._spec.revision
            if not is_current:
                self._supervision.abandon()
            self._supervision.note_older(self._machinery.older_names() if is_current else [])
            is_up = await asyncio.to_thread(self._machinery.is_application_up) if is_current else False
            if is_up is not None:
                self._supervision.note_application(is_up, self._is_attended())
            await asyncio.sleep(_OBSERVE_INTERVAL_S if self._supervision.stored.is_wanted else TICK_S)

    def _adopt_workers(self, state: StoredState) -> None:
        for index, incarnation in enumerate(state.last_incarnations):
            if incarnation and self._machinery.adopt(index, incarnation):
                self._supervision.adopt(index, incarnation)

    def _note(self, report: ComponentReport) -> None:
        self._reports[report.name] = (self._clock.now_s(), report)

    def _is_reported_ready(self, name: str) -> bool:
        found = self._reports.get(name)
        return found is not None and found[1].is_ready

    def _is_attended(self) -> bool:
        """Say whether an attention replica lives: each reports whenever `watch` has returned."""
        oldest_s = self._clock.now_s() - ATTENDED_S
        return any(report.role == "attention" and at_s >= oldest_s for at_s, report in self._reports.values())

    def _forget_silent(self) -> None:
        """Forget attention replicas that are gone, and workers that were let go; a lost worker is remembered."""
        oldest_s = self._clock.now_s() - REPORT_LIFE_S
        kept = {worker_id(index) for index in range(self._supervision.num_kept)}
        for name, (at_s, report) in list(self._reports.items()):
            is_gone = at_s < oldest_s if report.role == "attention" else name not in kept
            if is_gone:
                del self._reports[name]

    def _epoch(self) -> int:
        return self._supervision.stored.epoch

    def _is_newer(self, epoch: int) -> bool:
        membership = self._supervision.membership
        return membership is not None and membership.epoch > epoch
