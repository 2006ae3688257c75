"""Validates rendered objects: core kinds against Kubernetes' schemas, Ray's against the operator's definitions."""

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.helm.chart import Document

KUBERNETES_VERSION = "1.37"
DATA = Path(__file__).parent / "data"

# What the chart uses of the Prometheus operator's PodMonitor, after its API reference.
POD_MONITOR_SPEC: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selector", "podMetricsEndpoints"],
    "properties": {
        "selector": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        "podMetricsEndpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "port": {"type": "string"},
                    "path": {"type": "string"},
                    "interval": {"type": "string"},
                    "authorization": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "type": {"type": "string"},
                            "credentials": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["key"],
                                "properties": {"name": {"type": "string"}, "key": {"type": "string"}},
                            },
                        },
                    },
                },
            },
        },
    },
}


def validate_object(document: Document) -> None:
    """Raise ValidationError unless the object fits the schema of its kind; unknown fields do not fit."""
    group = document["apiVersion"].partition("/")[0]
    if group == "ray.io":
        _ray_validator(document["kind"]).validate(document)
    elif group == "monitoring.coreos.com":
        jsonschema.validate(document["spec"], POD_MONITOR_SPEC)
    else:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def validate_pod_template(template: Document) -> None:
    """Raise ValidationError unless the template makes a pod that Kubernetes' own schema takes."""
    metadata = {"name": "from-template", **template["metadata"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)


@cache
def _ray_validator(kind: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a ray.io/v1 kind; the definition is large, so it is made once."""
    text = gzip.decompress((DATA / f"ray.io_{kind.lower()}s.yaml.gz").read_bytes())
    definition = yaml.load(text, yaml.CSafeLoader)
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    schema = strict(versions["v1"]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def strict(schema: Any) -> Any:
    """Return a definition's schema as the API server applies it with strict field validation.

    Unknown fields are refused, `int-or-string` is spelled out, and what has a default is not required.
    """
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return result
    if not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if isinstance(schema.get("required"), list):
        result["required"] = [name for name in schema["required"] if "default" not in properties.get(name, {})]
    return result
