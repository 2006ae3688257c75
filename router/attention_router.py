"""AttentionRouter: Serve's own choice between replicas, which also tells this process who may be chosen.

Serve pickles this module by value, so what it shares with the process is imported where it is used.
"""

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import RunningReplica

ADDRESS, FINGERPRINT = "token_stream", "fingerprint"
"""What `AttentionReplica.record_replica_metadata` calls them."""


class AttentionRouter(PowerOfTwoChoicesRequestRouter):
    """Routes as Serve does by default."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take the replicas that may be chosen from now on; one that is to go is not among them."""
        from router.routed_replicas import ROUTED

        told = (replica.replica_metadata for replica in replicas)
        ROUTED.publish({one[ADDRESS]: one[FINGERPRINT] for one in told if ADDRESS in one})
        super().update_replicas(replicas)
