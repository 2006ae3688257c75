"""An edge learns that Serve routes to it no more, not before it has come, and also that it does again."""

import pytest
from ray.serve._private.common import DeploymentID, DeploymentTargetInfo, ReplicaID, RunningReplicaInfo

from router.edge_targets import Presence

OWN, OTHER = (ReplicaID(name, DeploymentID("Edge", "expertmesh")) for name in ("own", "other"))


def targets(*replicas: ReplicaID, is_available: bool = True) -> DeploymentTargetInfo:
    running = [RunningReplicaInfo(one, "node", "127.0.0.1", None, one.unique_id, 8) for one in replicas]
    return DeploymentTargetInfo(is_available, running)


@pytest.mark.parametrize(
    ("told", "heard"),
    [
        ([targets()], []),
        ([targets(OTHER)], []),
        ([targets(OTHER), targets(OWN, OTHER)], []),
        ([targets(OWN), targets(OWN, OTHER), targets(OTHER)], [False]),
        ([targets(OWN), targets(OTHER), targets(), targets(OTHER)], [False]),
        ([targets(OWN), targets(OWN, is_available=False)], [False]),
        ([targets(OWN), targets(), targets(OWN), targets(OWN)], [False, True]),
    ],
)
def test_it_leaves_when_it_was_there_and_is_no_more(told: list[DeploymentTargetInfo], heard: list[bool]) -> None:
    changes: list[bool] = []
    presence = Presence(OWN, changes.append)
    for one in told:
        presence.take(one)
    assert changes == heard
