"""`expertmesh status`: what a running server says of itself at /ready and /metrics."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from router.cli_options import DEFAULT_URL, ApiKey, AsJson, Url

# What people ask for first, by the metric's name and labels.
_SHOWN: list[tuple[str, str, dict[str, str]]] = [
    ("requests running", "expertmesh_requests_running", {}),
    ("sequences running", "expertmesh_engine_sequences", {"state": "running"}),
    ("sequences waiting", "expertmesh_engine_sequences", {"state": "waiting"}),
    ("KV blocks used", "expertmesh_engine_kv_blocks", {"state": "used"}),
    ("KV blocks free", "expertmesh_engine_kv_blocks", {"state": "free"}),
    ("prompt tokens", "expertmesh_prompt_tokens_total", {}),
    ("generated tokens", "expertmesh_completion_tokens_total", {}),
]


def status(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show whether a server is ready, how far it has come, and what it does (exit code 1 if not ready)."""
    from router.cli_client import ServerClient

    with ServerClient(url, api_key) as client:
        ready = client.ready()
        text = client.metrics()
    metrics = None if text is None else sum_metrics(text)
    if as_json:
        typer.echo(json.dumps({"ready": ready, "metrics": metrics}, indent=2))
    else:
        _print_status(Console(highlight=False), ready, metrics)
    if not ready["ready"]:
        raise typer.Exit(1)


def sum_metrics(text: str) -> dict[str, float]:
    """Return Expertmesh's counters and gauges out of Prometheus' text: `name{label="value"}` to its value."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        if family.type in {"counter", "gauge"} and family.name.startswith("expertmesh_"):
            for sample in family.samples:
                samples[_key(sample.name, sample.labels)] = sample.value
    return samples


def _key(name: str, labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def _print_status(console: Console, ready: Mapping[str, Any], metrics: dict[str, float] | None) -> None:
    table = Table(show_header=False, box=None)
    for title, value in [*_readiness_rows(ready), *_metric_rows(metrics)]:
        table.add_row(title, value)
    console.print(table)


def _readiness_rows(ready: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "model" in ready:
        yield "model", str(ready["model"])
    yield "state", str(ready["stage"]) if ready["ready"] else f"{ready['stage']}, {ready['progress']:.0%} of all"
    for name in ("detail", "placement", "kernel_backend", "system_fingerprint"):
        if ready.get(name):
            yield name.replace("_", " "), str(ready[name])
    for part in ready.get("components", []):
        progress = "" if part["is_ready"] else f", {part['progress']:.0%}"
        yield part["name"], " ".join([f"{part['stage']}{progress}", part["detail"]]).strip()


def _metric_rows(metrics: dict[str, float] | None) -> Iterator[tuple[str, str]]:
    if metrics is None:
        yield "details, metrics", "need a key: --api-key"
        return
    for title, name, labels in _SHOWN:
        value = metrics.get(_key(name, labels))
        if value is not None:
            yield title, f"{value:,.0f}"
