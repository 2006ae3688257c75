"""RayMachinery: carries a supervision's actions out on Ray, and tells what becomes of the workers."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.cluster_spec import ClusterSpec
from cluster.cluster_status import FAILED, LOST, Member
from cluster.expert_worker import ExpertWorker, WorkerSeat
from cluster.experts.placement import ExpertKey
from cluster.experts.rebalance import BalancePlan, balance_plan
from cluster.moves import LoadExperts, Order, PlanMoves
from cluster.ray_runtime import NAMESPACE, delete_value, read_value, write_value
from cluster.stored_state import StoredState

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
        task = start_or_die(work)
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


def start_or_die(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run `work` forever; if it ends with a bug, so does this process, and Ray starts it anew from the stored state."""
    task = asyncio.create_task(work)
    task.add_done_callback(_die_of_bugs)
    return task


def _die_of_bugs(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("the supervisor has a bug and starts anew", exc_info=task.exception())
        os._exit(1)
