"""What the chart renders, over a matrix of values: it fits the schemas, is one config, and is locked down."""

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _get_ray_resources_from_group_spec
from ray.serve.schema import ServeDeploySchema

from cluster.config import AttentionSection
from cluster.ray_runtime import lacking
from router import deployments
from router.autoscaling import scaling_options
from router.config import load_config, parse_config
from router.serving import wanted_resources
from tests.helm.chart import CHART, Helm, Rendered
from tests.helm.conftest import CASES
from tests.helm.operator_rules import faults
from tests.helm.schemas import validate_object, validate_pod_template

PORTS_OF_RAY = {6379, 8265, 10001, 52365, 8080}


def test_the_chart_passes_lint(helm: Helm, case: tuple[Path, ...]):
    assert "0 chart(s) failed" in helm.lint(case)


def test_every_object_fits_the_schema_of_its_kind(rendered: Rendered):
    assert rendered.of_kind("RayService")
    for document in rendered.documents:
        validate_object(document)


def test_every_pod_template_makes_a_valid_pod(rendered: Rendered):
    for template in rendered.pod_templates():
        validate_pod_template(template)


def test_the_operator_takes_the_service(rendered: Rendered):
    assert faults(rendered.only("RayService")) == []


def test_ray_serve_takes_the_serve_config(rendered: Rendered):
    config = ServeDeploySchema.model_validate(rendered.serve_config())
    (application,) = config.applications
    assert application.import_path == "router.deployments:build"
    assert application.route_prefix == "/"
    assert config.http_options.port == parse_config(application.args, "args").edge.http.port


def test_edges_run_on_the_head_node_and_claim_no_cpu(rendered: Rendered):
    """The names are those of the code; by the label, Serve also builds the application where the API keys lie."""
    (application,) = ServeDeploySchema.model_validate(rendered.serve_config()).applications
    assert application.name == deployments.APPLICATION
    (edge,) = application.deployments
    assert edge.name == deployments.EDGE
    assert edge.ray_actor_options.num_cpus == 0
    selector = edge.ray_actor_options.label_selector
    assert selector is not None
    head, *workers = rendered.ray_groups()
    assert selector.items() <= head["labels"].items()
    assert all(not selector.items() <= group["labels"].items() for group in workers)


def test_the_application_gets_the_config_of_the_values(rendered: Rendered, case: tuple[Path, ...]):
    """The merge of the values files is done here once more, by the rules of Helm: null removes."""
    values: dict[str, Any] = {}
    for file in (CHART / "values.yaml", *case):
        _merge(values, yaml.safe_load(file.read_text(encoding="utf-8")))
    (application,) = rendered.serve_config()["applications"]
    assert application["args"] == values["config"]
    assert parse_config(application["args"], "args").form == "cluster"


def test_the_mounted_config_file_is_the_application_config(rendered: Rendered, tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(rendered.only("ConfigMap")["data"]["config.yaml"], encoding="utf-8")
    (application,) = rendered.serve_config()["applications"]
    assert load_config(str(file)) == parse_config(application["args"], "args")


def test_every_pod_keeps_the_restricted_pod_security_standard(rendered: Rendered):
    for template in rendered.pod_templates():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True


def test_pods_get_no_service_links_and_a_token_only_beside_the_autoscaler(rendered: Rendered):
    autoscales = rendered.ray_cluster()["enableInTreeAutoscaling"]
    head = rendered.ray_cluster()["headGroupSpec"]["template"]
    for template in rendered.pod_templates():
        assert template["spec"]["enableServiceLinks"] is False
        assert template["spec"]["automountServiceAccountToken"] is (autoscales and template is head)


def test_every_mount_has_its_volume_and_every_volume_a_mount(rendered: Rendered):
    for template in rendered.pod_templates():
        spec = template["spec"]
        containers = [*spec.get("initContainers", []), *spec["containers"]]
        mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in spec.get("volumes", [])}


def test_what_a_pod_refers_to_is_rendered_or_named_by_the_user(rendered: Rendered, case: tuple[Path, ...]):
    ours = {(document["kind"], document["metadata"]["name"]) for document in rendered.documents}
    given = "".join(file.read_text(encoding="utf-8") for file in case)
    for template in rendered.pod_templates():
        for kind, name in _references(template["spec"]):
            assert (kind, name) in ours or re.search(rf"\b{re.escape(name)}\b", given), f"{kind} {name}"


def test_ray_reads_the_resources_of_every_node(rendered: Rendered):
    """Ray's own autoscaler code and a shell word agree; no node offers CPUs, so nothing lands by chance."""
    for group in rendered.ray_groups():
        is_head = "groupName" not in group
        resources = _get_ray_resources_from_group_spec(group, is_head)
        assert resources["CPU"] == 0
        (word,) = shlex.split(group["rayStartParams"]["resources"])
        custom = {name: amount for name, amount in resources.items() if name not in {"CPU", "GPU", "memory"}}
        assert yaml.safe_load(word) == custom
    assert _get_ray_resources_from_group_spec(rendered.ray_cluster()["headGroupSpec"], True)["attention"] == 1


def test_the_object_store_fits_shared_memory(rendered: Rendered):
    for group in rendered.ray_groups():
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        (size,) = re.findall(r"^(\d+)(?=[MG]i$)", volumes["shared-memory"]["emptyDir"]["sizeLimit"])
        factor = 2**30 if volumes["shared-memory"]["emptyDir"]["sizeLimit"].endswith("Gi") else 2**20
        assert int(group["rayStartParams"]["object-store-memory"]) < int(size) * factor


def test_the_public_service_finds_the_head_node_alone(rendered: Rendered):
    """It targets ports by name, and the operator lets it select every pod: only the head may have these names."""
    service = rendered.only("RayService")["spec"]["serveService"]
    wanted = {port["targetPort"] for port in service["spec"]["ports"]}
    assert wanted == {"serve", "serve-grpc"}
    head, *workers = (_ports(group["template"]) for group in rendered.ray_groups())
    assert wanted <= set(head)
    assert all(not wanted & set(ports) for ports in workers)


def test_ports_are_those_of_the_config_and_none_comes_twice(rendered: Rendered):
    config = load_args(rendered)
    head = _ports(rendered.ray_cluster()["headGroupSpec"]["template"])
    assert head["serve"] == config.edge.http.port
    assert head["serve-grpc"] == config.edge.grpc.port
    low, high = config.experts.port_range
    assert not {port for port in PORTS_OF_RAY | set(head.values()) if low <= port <= high and low > 0}
    assert len(set(head.values())) == len(head)


def test_every_selector_selects_a_pod_of_the_chart(rendered: Rendered):
    labels = [template["metadata"]["labels"] for template in rendered.pod_templates()]
    selectors = [
        *(budget["spec"]["selector"]["matchLabels"] for budget in rendered.of_kind("PodDisruptionBudget")),
        *(policy["spec"]["podSelector"]["matchLabels"] for policy in rendered.of_kind("NetworkPolicy")),
        *(monitor["spec"]["selector"]["matchLabels"] for monitor in rendered.of_kind("PodMonitor")),
        *(service["spec"]["selector"] for service in rendered.of_kind("Service")),
    ]
    for selector in selectors:
        assert any(selector.items() <= pod.items() for pod in labels), selector


def test_names_are_unique_and_fit_kubernetes(rendered: Rendered):
    names = [(document["kind"], document["metadata"]["name"]) for document in rendered.documents]
    assert len(set(names)) == len(names)
    for _, name in names:
        assert len(name) <= 63
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("default", "gpt-oss-120b-2nodes"),
        ("scale", "gpt-oss-120b-2nodes"),
        ("1gpu", "gpt-oss-120b-1gpu"),
        ("tiny", "tiny"),
    ],
)
def test_values_files_compute_what_the_presets_compute(helm: Helm, name: str, preset: str):
    """Sizes and placement are the preset's; ports, resources and the edge belong to Kubernetes."""
    config, expected = load_args(helm.template(CASES[name])), load_config(preset)
    assert config.model == expected.model
    assert config.numerics == expected.numerics
    assert config.engine == expected.engine
    assert config.attention.device == expected.attention.device
    assert config.experts.num_workers == expected.experts.num_workers
    assert config.experts.copies == expected.experts.copies
    assert config.experts.device == expected.experts.device


def test_attention_scales_as_far_as_nodes_can_come_and_no_further(helm: Helm, case: tuple[Path, ...]):
    """Every replica and every worker that may be wanted has its GPU, on a node that takes it."""
    rendered = helm.template(case)
    config = load_args(rendered)
    num_nodes = [1, *(group["maxReplicas"] for group in rendered.ray_cluster()["workerGroupSpecs"])]
    offered: Counter[str] = Counter()
    for group, number in zip(rendered.ray_groups(), num_nodes, strict=True):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        own = json.loads(group["rayStartParams"]["resources"].strip("'\""))
        for name, amount in ({"GPU": limits.get("nvidia.com/gpu", 0)} | own).items():
            offered[name] += amount * number
    wanted = wanted_resources(config.model_copy(update={"attention": _at_most(config.attention)}))
    assert not lacking(wanted, offered)


def _at_most(attention: AttentionSection) -> AttentionSection:
    return attention.model_copy(update={"min_replicas": attention.max_replicas})


def test_the_scaling_values_do_scale(helm: Helm):
    rendered = helm.template(CASES["scale"])
    attention = load_args(rendered).attention
    assert (attention.min_replicas, attention.max_replicas) == (1, 4)
    assert "autoscaling_config" in scaling_options(attention)
    assert rendered.ray_cluster()["enableInTreeAutoscaling"] is True


def load_args(rendered: Rendered) -> Any:
    """Return the checked config that the application gets."""
    return parse_config(rendered.serve_config()["applications"][0]["args"], "args")


def _ports(template: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}


def _references(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the (kind, name) of what a pod cannot start without."""
    found = [("ServiceAccount", spec["serviceAccountName"])] if "serviceAccountName" in spec else []
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            found.append(("ConfigMap", volume["configMap"]["name"]))
        if "secret" in volume:
            found.append(("Secret", volume["secret"]["secretName"]))
        if "persistentVolumeClaim" in volume:
            found.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    return [(kind, name) for kind, name in found if name != "default"]


def _merge(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    for key, value in overlay.items():
        if value is None:
            base.pop(key, None)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
