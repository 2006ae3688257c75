"""Tells an edge when Serve stops routing to it: long before the end, while requests that it has still run.

Serve has no hook for that moment; `__del__` comes when all HTTP requests are over. But it tells every router of each
deployment's running replicas at once, and an edge can listen as routers do.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.serve._private.common import DeploymentTargetInfo, ReplicaID
from ray.serve._private.long_poll import LongPollClient, LongPollNamespace


class Presence:
    """Whether a replica is among those that Serve routes to. Knows only what it is told."""

    def __init__(self, replica: ReplicaID, left: Callable[[], None]) -> None:
        """Call `left` once, when `replica` has been among them and is no more."""
        self._replica = replica
        self._left = left
        self._was_there = False

    def take(self, targets: DeploymentTargetInfo) -> None:
        """Take the newest set; before the first that has the replica, it has not yet come."""
        is_there = targets.is_available and any(one.replica_id == self._replica for one in targets.running_replicas)
        if self._was_there and not is_there:
            self._left()
        self._was_there = is_there


def watch_own_presence(left: Callable[[], None]) -> LongPollClient:
    """Call `left` on the running event loop once Serve does not route to this replica any more.

    It listens as long as what it returns is kept. Only within a replica of Serve.
    """
    replica = serve.get_replica_context().replica_id
    key: Any = LongPollNamespace.DEPLOYMENT_TARGETS, replica.deployment_id  # Ray's annotation knows string keys only
    return LongPollClient(
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve"),
        {key: Presence(replica, left).take},
        call_in_event_loop=asyncio.get_running_loop(),
        client_id=f"edge:{replica.unique_id}",
    )
