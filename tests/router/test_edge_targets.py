"""An edge learns that Serve routes to it no more, once, and not before it has come."""

import pytest
from ray.serve._private.common import DeploymentID, DeploymentTargetInfo, ReplicaID, RunningReplicaInfo

from router.edge_targets import Presence

OWN, OTHER = (ReplicaID(name, DeploymentID("Edge", "expertmesh")) for name in ("own", "other"))


def targets(*replicas: ReplicaID, is_available: bool = True) -> DeploymentTargetInfo:
    running = [RunningReplicaInfo(one, "node", "127.0.0.1", None, one.unique_id, 8) for one in replicas]
    return DeploymentTargetInfo(is_available, running)


@pytest.mark.parametrize(
    ("told", "num_leaves"),
    [
        ([targets()], 0),
        ([targets(OTHER)], 0),
        ([targets(OTHER), targets(OWN, OTHER)], 0),
        ([targets(OWN), targets(OWN, OTHER), targets(OTHER)], 1),
        ([targets(OWN), targets(OTHER), targets(), targets(OTHER)], 1),
        ([targets(OWN), targets(OWN, is_available=False)], 1),
    ],
)
def test_it_leaves_when_it_was_there_and_is_no_more(told: list[DeploymentTargetInfo], num_leaves: int) -> None:
    left: list[None] = []
    presence = Presence(OWN, lambda: left.append(None))
    for one in told:
        presence.take(one)
    assert len(left) == num_leaves
