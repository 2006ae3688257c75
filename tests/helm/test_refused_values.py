"""Values that cannot work are refused before anything is installed, by a message that names them."""

import pytest

from tests.helm.chart import ChartRefusedError, Helm, setting

# (what is set, what the message says)
BY_THE_SCHEMA: list[tuple[str, object, str]] = [
    ("replicas", 3, "additional properties 'replicas' not allowed"),
    ("image.varient", "cpu", "additional properties 'varient' not allowed"),
    ("image.variant", "rocm", "value must be one of 'cuda', 'cpu'"),
    ("image.digest", "sha256:12", "does not match pattern"),
    ("config.experts.num_worker", 4, "additional properties 'num_worker' not allowed"),
    ("config.experts.num_workers", "four", "got string, want integer"),
    ("config.experts.num_workers", -1, "minimum"),
    ("config.experts.device", "tpu", "value must be one of 'cpu', 'cuda'"),
    ("config.engine.kv_cache_fraction", 2.0, "maximum"),
    ("config.edge.http.port", 70000, "maximum"),
    ("workerGroups.experts.maxReplicas", None, "missing property 'maxReplicas'"),
    ("workerGroups.Experts", {"enabled": False}, "additional properties 'Experts' not allowed"),
    ("workerGroups.experts.rayResources", {"expert": 0.5}, "want integer"),
    ("head.resources.limits.memory", "64 gigabytes", "does not match pattern"),
    ("upgrade.strategy", "RollingUpdate", "value must be one of 'NewCluster', 'None'"),
    ("model.storage.accessModes", [], "minItems"),
    ("gcsFaultTolerance.redisAddress", "redis", "does not match pattern"),
    ("sharedMemory.objectStoreBytes", 1000, "minimum"),
    ("terminationGracePeriodSeconds", "300", "got string, want integer"),
    ("service.type", "ExternalName", "value must be one of 'ClusterIP'"),
]

_A_GROUP = {"enabled": True, "replicas": 0, "minReplicas": 0, "maxReplicas": 0, "rayResources": {}, "resources": {}}

BY_A_GUARD: list[tuple[tuple[tuple[str, object], ...], str]] = [
    ((("fullnameOverride", "a" * 48),), "has 48 characters; the operator takes at most 47"),
    ((("fullnameOverride", "4gpus"),), "must start with a letter"),
    ((("workerGroups.experts.minReplicas", 2),), "workerGroups.experts: minReplicas 2 is above maxReplicas 1"),
    ((("workerGroups.experts.replicas", 2),), "replicas 2 is not between minReplicas 1 and maxReplicas 1"),
    ((("config.attention.max_replicas", 2),), '10 of the Ray resource "GPU" (up to 8 expert workers and 2 attention'),
    ((("config.form", "standalone"),), "config.form: the chart runs a cluster"),
    ((("config.attention.drain_timeout_s", 600.0),), "shorter than config.attention.drain_timeout_s"),
    ((("config.experts.port_range", [7199, 7100]),), "ends before it starts"),
    ((("config.experts.port_range", [8000, 8100]),), "holds port 8080"),
    ((("gcsFaultTolerance.enabled", True),), "gcsFaultTolerance.redisAddress: wanted"),
    ((("extraEnv", [{"name": "REDIS_PASSWORD", "value": "x"}]),), "extraEnv: REDIS_PASSWORD is the operator's"),
    ((("config.edge.grpc.host", "127.0.0.1"),), "config.edge.grpc.host: a Service cannot reach 127.0.0.1"),
    ((("config.edge.http", None),), "config.edge.http.host: a Service cannot reach 127.0.0.1"),
    ((("config.edge.grpc.port", 8000),), "both want port 8000"),
    ((("config.edge.http.port", 8265),), "port 8265 is Ray's"),
    ((("config.edge.grpc.port", 12345),), "port 12345 is Ray's"),
    ((("config.experts.port_range", [9900, 10100]),), "overlaps 10002 to 19999"),
    ((("config.edge.auth.api_keys", ["sk-1"]),), "keys do not belong in the values"),
    ((("config.edge.auth", {"api_keys_file": None}),), "config.edge.auth.api_keys_file: must be"),
    ((("model.storage.type", "existingClaim"),), "model.storage.existingClaim: wanted"),
    ((("model.storage.type", "hostPath"),), "model.storage.hostPath: wanted"),
    ((("model.storage.type", "none"),), 'none holds no checkpoint, and config.model.path is "openai/gpt-oss-120b"'),
    (
        (("model.storage.type", "hostPath"), ("model.storage.hostPath", "/srv")),
        'nothing is fetched into storage of type "hostPath"',
    ),
    ((("workerGroups.experts.rayResources", {"GPU": 8}),), "workerGroups.experts.rayResources: GPU follows from"),
    ((("head.rayResources", {"memory": 8}),), "head.rayResources: memory follows from"),
    ((("workerGroups.head", _A_GROUP),), "workerGroups.head: the name of the head node's own group"),
    ((("config.experts.num_workers", 9),), 'config wants 10 of the Ray resource "GPU"'),
    ((("config.experts.scaling", {"max_workers": 12}),), 'config wants 13 of the Ray resource "GPU"'),
    ((("workerGroups.experts.enabled", False),), 'of the Ray resource "GPU" (up to 8 expert workers'),
    ((("workerGroups.experts.rayResources", {"expert": None}),), 'wants 8 of the Ray resource "expert"'),
    ((("head.rayResources", {"attention": None}),), 'of the Ray resource "attention"'),
]


@pytest.mark.parametrize(("path", "value", "message"), BY_THE_SCHEMA)
def test_the_schema_refuses(helm: Helm, path: str, value: object, message: str):
    with pytest.raises(ChartRefusedError) as caught:
        helm.template(settings=[setting(path, value)])
    assert message in str(caught.value)
    assert path.split(".", maxsplit=1)[0] in str(caught.value)


@pytest.mark.parametrize(("settings", "message"), BY_A_GUARD)
def test_a_guard_refuses(helm: Helm, settings: tuple[tuple[str, object], ...], message: str):
    with pytest.raises(ChartRefusedError) as caught:
        helm.template(settings=[setting(path, value) for path, value in settings])
    assert message in str(caught.value)


def test_a_long_release_name_is_cut_to_what_the_operator_takes(helm: Helm):
    rendered = helm.template(release="r" * 50)
    assert len(rendered.only("RayService")["metadata"]["name"]) == 47
