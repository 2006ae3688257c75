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

    def __init__(self, replica: ReplicaID, routed: Callable[[bool], None]) -> None:
        """Call `routed` with False when `replica` has been among them and is no more, with True if it comes back."""
        self._replica = replica
        self._routed = routed
        self._has_come = False
        self._is_there = False

    def take(self, targets: DeploymentTargetInfo) -> None:
        """Take the newest set; before the first that has the replica, it has not yet come."""
        was_there = self._is_there
        self._is_there = targets.is_available and any(
            one.replica_id == self._replica for one in targets.running_replicas
        )
        if self._has_come and self._is_there != was_there:
            self._routed(self._is_there)
        self._has_come = self._has_come or self._is_there


def watch_own_presence(routed: Callable[[bool], None]) -> LongPollClient:
    """Call `routed` on the running event loop with whether Serve routes to this replica, whenever that changes.

    A replica that gets other options without a restart is left out for a moment, and comes back. What is returned
    listens as long as it is kept. Only within a replica of Serve.
    """
    replica = serve.get_replica_context().replica_id
    key: Any = LongPollNamespace.DEPLOYMENT_TARGETS, replica.deployment_id  # Ray's annotation knows string keys only
    return LongPollClient(
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve"),
        {key: Presence(replica, routed).take},
        call_in_event_loop=asyncio.get_running_loop(),
        client_id=f"edge:{replica.unique_id}",
    )
