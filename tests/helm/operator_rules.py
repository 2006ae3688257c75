"""What the operator refuses beyond its schema, as one function: a RayService in, its faults out.

After KubeRay 1.7's validation of RayService and RayCluster, for the fields that the chart uses, and two things that
it lets pass and that then do not work.
"""

import re
from collections.abc import Iterator

from tests.helm.chart import Document

MAX_NAME_LENGTH = 47
OPERATORS_ENVIRONMENT = {"REDIS_PASSWORD", "REDIS_USERNAME", "RAY_REDIS_ADDRESS"}
OPERATORS_LABELS = {"app.kubernetes.io/name", "app.kubernetes.io/created-by"}


def faults(service: Document) -> list[str]:
    """Return why the operator would refuse this RayService, or run it wrongly; empty if it takes it."""
    spec = service["spec"]
    cluster = spec["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    found = [*_name_faults(service["metadata"]["name"]), *_service_faults(spec), *_auth_faults(cluster)]
    for group in groups:
        found += [*_group_faults(group), *_environment_faults(group, cluster), *_label_faults(group)]
    for group in cluster["workerGroupSpecs"]:
        found += _replica_faults(group)
    if cluster.get("enableInTreeAutoscaling"):
        found += _autoscaler_faults(cluster, groups)
    return found


def _name_faults(name: str) -> Iterator[str]:
    if len(name) > MAX_NAME_LENGTH:
        yield f"RayService name {name} has {len(name)} characters"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"RayService name {name} is no DNS-1035 label"


def _service_faults(spec: Document) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy", {}).get("type", "NewCluster")
    if strategy not in {"NewCluster", "None", "NewClusterWithIncrementalUpgrade"}:
        yield f"upgradeStrategy.type {strategy} is unknown"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds is negative"
    if spec["rayClusterConfig"].get("upgradeStrategy"):
        yield "rayClusterConfig.upgradeStrategy is not for clusters of a RayService"
    if spec["rayClusterConfig"]["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        yield "headService.metadata.name must be empty"
    named = {port["name"] for port in _ray_container(spec["rayClusterConfig"]["headGroupSpec"]).get("ports", [])}
    yield from (
        f"serveService port {port['name']} is not a port of the head container"
        for port in spec.get("serveService", {}).get("spec", {}).get("ports", [])
        if port["name"] not in named
    )


def _auth_faults(cluster: Document) -> Iterator[str]:
    auth = cluster.get("authOptions", {})
    if auth.get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth does not work with a RayService"
    if auth.get("mode") == "token":
        version = tuple(int(part) for part in cluster.get("rayVersion", "0").split("."))
        if version < (2, 52, 0):
            yield f"token auth needs Ray 2.52, rayVersion is {cluster.get('rayVersion')}"


def _group_faults(group: Document) -> Iterator[str]:
    name = group.get("groupName", "head")
    start = group["rayStartParams"]
    if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(start):
        yield f"{name}: resources are set twice"
    if "labels" in start:
        yield f"{name}: labels do not belong into rayStartParams"
    if not group["template"]["spec"].get("containers"):
        yield f"{name}: no container"


def _environment_faults(group: Document, cluster: Document) -> Iterator[str]:
    names = {variable["name"] for variable in _ray_container(group).get("env", [])}
    yield from (f"environment {name} is the operator's" for name in sorted(names & OPERATORS_ENVIRONMENT))
    if "RAY_enable_autoscaler_v2" in names and (
        not cluster.get("enableInTreeAutoscaling") or cluster.get("autoscalerOptions", {}).get("version")
    ):
        yield "RAY_enable_autoscaler_v2 is set beside autoscalerOptions.version, or without an autoscaler"
    if cluster.get("gcsFaultToleranceOptions") and "redis-password" in group["rayStartParams"]:
        yield "redis-password belongs into gcsFaultToleranceOptions"


def _label_faults(group: Document) -> Iterator[str]:
    """The head service of a RayService selects pods by labels that a template may overwrite, and then finds none."""
    labels = set(group["template"]["metadata"].get("labels", {}))
    yield from (f"label {label} is the operator's" for label in sorted(labels & OPERATORS_LABELS))


def _replica_faults(group: Document) -> Iterator[str]:
    low, high = group["minReplicas"], group["maxReplicas"]
    if low < 0 or high < 0 or low > high:
        yield f"{group['groupName']}: minReplicas {low}, maxReplicas {high}"
    if not low <= group["replicas"] <= high:
        yield f"{group['groupName']}: replicas {group['replicas']} outside {low} to {high}"


def _autoscaler_faults(cluster: Document, groups: list[Document]) -> Iterator[str]:
    if cluster.get("autoscalerOptions", {}).get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds is negative"
    if cluster.get("autoscalerOptions", {}).get("version") == "v2":
        for group in groups:
            policy = group["template"]["spec"].get("restartPolicy", "Never")
            if policy != "Never":
                yield f"{group.get('groupName', 'head')}: restartPolicy {policy} with autoscaler v2"
    if not cluster["headGroupSpec"]["template"]["spec"].get("automountServiceAccountToken"):
        yield "the autoscaler beside the head has no token for the API server"


def _ray_container(group: Document) -> Document:
    return group["template"]["spec"]["containers"][0]
