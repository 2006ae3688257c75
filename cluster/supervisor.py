"""Supervisor: the detached actor that owns an application's expert workers. A thin driver of `Supervision`.

There is one for each revision of an application, found by its name. It makes workers, notices their deaths, publishes
memberships, collects everybody's progress, and ends everything once nobody wants it: its owner fell silent, the
application was deleted, or another revision took over. What it must remember lies in Ray's internal KV.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.clock import Clock, MonotonicClock
from cluster.cluster_spec import ClusterSpec
from cluster.cluster_status import FAILED, LOST, READY, ClusterStatus, ComponentReport, Member, Membership
from cluster.expert_worker import ExpertWorker, WorkerSeat
from cluster.experts.first_placement import share_of
from cluster.experts.placement import ExpertKey
from cluster.experts.rebalance import BalancePlan, balance_plan
from cluster.experts.traffic import TrafficReport
from cluster.live_placement import LoadExperts, Order, PlanMoves, move_policy
from cluster.ray_runtime import NAMESPACE, delete_value, read_value, write_value
from cluster.reconcile import Rest
from cluster.stored_state import StoredState
from cluster.supervision import Supervision

TICK_S = 0.5
WATCH_TIMEOUT_S = 2.0
"""How long `watch` waits for a newer epoch before it returns without one."""
ATTENDED_S = 3 * WATCH_TIMEOUT_S
REPORT_LIFE_S = 20.0
"""A replica that has not reported for so long is no longer counted."""
_OBSERVE_INTERVAL_S = 5.0
_CONTROLLER_TIMEOUT_S = 5.0
_SERVE_CONTROLLER, _SERVE_NAMESPACE = "SERVE_CONTROLLER_ACTOR", "serve"
"""Serve's controller is asked directly: importing ray.serve would make this small process a large one."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listener:
    """What is told of workers."""

    on_ready: Callable[[Member], None]
    on_lost: Callable[[WorkerSeat, str, str], None]
    """Called with a worker's seat, the stage it has reached by that, and why."""
    on_moved: Callable[[Order, frozenset[ExpertKey] | None], None]
    """Called with what a worker was asked for and what it holds then; None if it could not."""
    on_planned: Callable[[BalancePlan], None]


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
        self._reports: dict[str, tuple[float, ComponentReport]] = {}
        self._published = asyncio.Condition()
        self._wake = asyncio.Event()
        self._adopt_workers(state)
        self._tasks = [_start_or_die(self._drive()), _start_or_die(self._observe())]

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
            num_workers=self._spec.experts.num_workers,
            copies=self._spec.experts.copies,
            components=tuple(report for _, (_, report) in sorted(self._reports.items())),
            is_wanted=self._supervision.stored.is_wanted,
            age_s=self._clock.now_s() - self._started_s,
            balance=self._supervision.balance(),
            num_rescued=self._supervision.num_rescued,
        )

    async def secret(self) -> str:
        """Return the cluster's secret, which every internal handshake needs."""
        return self._supervision.stored.secret

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
            self._act()
            if self._epoch() != epoch:
                async with self._published:
                    self._published.notify_all()
            await self._sleep()

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
        """Forget attention replicas that are gone; workers are known by other means."""
        oldest_s = self._clock.now_s() - REPORT_LIFE_S
        for name, (at_s, report) in list(self._reports.items()):
            if report.role == "attention" and at_s < oldest_s:
                del self._reports[name]

    def _epoch(self) -> int:
        return self._supervision.stored.epoch

    def _is_newer(self, epoch: int) -> bool:
        membership = self._supervision.membership
        return membership is not None and membership.epoch > epoch


class RayMachinery:
    """Carries a supervision's actions out on Ray."""

    def __init__(self, spec: ClusterSpec, secret: str, listener: Listener) -> None:
        """Act from the running event loop; what becomes of workers is told there too."""
        self._spec = spec
        self._secret = secret
        self._listener = listener
        self._handles: dict[tuple[int, int], Any] = {}
        self._followers: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._moving: set[asyncio.Task[None]] = set()

    def store(self, state: StoredState) -> None:
        """Write the state to Ray's internal KV."""
        write_value(self._spec.state_key, state.to_json())

    def create_worker(self, index: int, incarnation: int) -> None:
        """Create the worker's actor, which may wait for resources."""
        section = self._spec.experts
        resources = dict(section.worker_resources)
        options = {
            "name": self._spec.worker_name(index, incarnation),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "max_restarts": 0,
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "resources": resources,
            "max_concurrency": 4,
            "scheduling_strategy": "SPREAD",
        }
        seat = self._seat(index, incarnation)
        self._follow(seat, ray.remote(ExpertWorker).options(**options).remote(seat))

    def adopt(self, index: int, incarnation: int) -> bool:
        """Follow a worker that an earlier life of the supervisor created; return whether it still lives."""
        try:
            handle = ray.get_actor(self._spec.worker_name(index, incarnation), namespace=NAMESPACE)
        except ValueError:
            return False
        self._follow(self._seat(index, incarnation), handle)
        return True

    def remove_worker(self, index: int, incarnation: int) -> None:
        """Kill the worker's actor, if it lives."""
        follower = self._followers.pop((index, incarnation), None)
        if follower is not None:
            follower.cancel()
        handle = self._handles.pop((index, incarnation), None)
        if handle is not None:
            ray.kill(handle, no_restart=True)

    def move(self, order: Order) -> None:
        """Ask the worker's actor, and tell what it holds then."""
        self._keep_running(self._move(order))

    def plan(self, action: PlanMoves) -> None:
        """Plan in a thread: a large model takes seconds, and the event loop answers everybody else."""
        self._keep_running(self._plan(action))

    def stop_older(self, name: str) -> None:
        """Kill an actor of another revision."""
        try:
            ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
        except ValueError:
            return

    def take_down_application(self) -> None:
        """Delete the Serve application, without waiting for it."""
        from ray import serve

        serve.delete(self._spec.application, _blocking=False)

    def exit(self) -> None:
        """Forget the stored state and end the supervisor's actor for good."""
        delete_value(self._spec.state_key)
        if read_value(self._spec.current_key) == self._spec.revision:
            delete_value(self._spec.current_key)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def older_names(self) -> list[str]:
        """Return the names of living actors of other revisions."""
        named: list[Any] = ray.util.list_named_actors(all_namespaces=True)
        return self._spec.older_names(entry["name"] for entry in named if entry["namespace"] == NAMESPACE)

    def is_application_up(self) -> bool | None:
        """Return whether Serve has the application; None if Serve does not answer. Blocks."""
        try:
            controller = ray.get_actor(_SERVE_CONTROLLER, namespace=_SERVE_NAMESPACE)
            asked = controller.get_ingress_deployment_name.remote(self._spec.application)
            ingress: str | None = cast("str | None", ray.get(asked, timeout=_CONTROLLER_TIMEOUT_S))
            return ingress is not None
        except ValueError:
            return False
        except RayError:
            return None

    def _keep_running(self, work: Coroutine[Any, Any, None]) -> None:
        task = _start_or_die(work)
        self._moving.add(task)  # nobody else holds it
        task.add_done_callback(self._moving.discard)

    async def _plan(self, action: PlanMoves) -> None:
        plan = await asyncio.to_thread(balance_plan, action.placement, action.shares, action.limits)
        self._listener.on_planned(plan)

    async def _move(self, order: Order) -> None:
        handle = self._handles.get((order.index, order.incarnation))
        try:
            if handle is None:
                raise RayError(f"worker {order.index}, incarnation {order.incarnation}, is gone")
            held = await handle.move.remote(order.epoch, order.keys, is_load=isinstance(order, LoadExperts))
        except RayError as error:
            logger.warning("%s is not done: %s", order, error)
            held = None
        self._listener.on_moved(order, held)

    def _seat(self, index: int, incarnation: int) -> WorkerSeat:
        return WorkerSeat(self._spec, index, incarnation, self._secret)

    def _follow(self, seat: WorkerSeat, handle: Any) -> None:
        key = seat.index, seat.incarnation
        self._handles[key] = handle
        self._followers[key] = asyncio.create_task(self._follow_life(seat, handle))

    async def _follow_life(self, seat: WorkerSeat, handle: Any) -> None:
        """Wait for a worker to be ready, then for its death."""
        try:
            self._listener.on_ready(await handle.start.remote())
            await handle.hold.remote()
        except RayTaskError as error:
            self._listener.on_lost(seat, FAILED, f"{type(error.cause).__name__}: {error.cause}")
        except RayActorError as error:
            self._listener.on_lost(seat, LOST, str(error).splitlines()[0])
        except RayError as error:
            self._listener.on_lost(seat, FAILED, f"{type(error).__name__}: {error}")


def _start_or_die(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run `work` forever; if it ends with a bug, so does this process, and Ray starts it anew from the stored state."""
    task = asyncio.create_task(work)
    task.add_done_callback(_die_of_bugs)
    return task


def _die_of_bugs(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("the supervisor has a bug and starts anew", exc_info=task.exception())
        os._exit(1)
