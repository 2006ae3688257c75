"""The chart under test: renders it with Helm and hands out what came, as plain values."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
RELEASE = "em"
HELM_TIMEOUT_S = 60

Document = dict[str, Any]


class ChartRefusedError(Exception):
    """Helm refused the values; the message is Helm's."""


class _NoDuplicateKeysLoader(yaml.CSafeLoader):
    """Reads YAML as the API server does: a key that comes twice is an error, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"keys given twice: {sorted(map(str, twice))} {node.start_mark}")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects of one rendering."""

    documents: tuple[Document, ...]

    def of_kind(self, kind: str) -> list[Document]:
        """Return the objects of a kind, in the order of rendering."""
        return [document for document in self.documents if document["kind"] == kind]

    def only(self, kind: str) -> Document:
        """Return the one object of a kind."""
        (document,) = self.of_kind(kind)
        return document

    def ray_cluster(self) -> Document:
        """Return the RayCluster spec inside the RayService."""
        return self.only("RayService")["spec"]["rayClusterConfig"]

    def serve_config(self) -> Document:
        """Return the Serve config inside the RayService, parsed."""
        return yaml.load(self.only("RayService")["spec"]["serveConfigV2"], _NoDuplicateKeysLoader)

    def ray_groups(self) -> list[Document]:
        """Return the head group and all worker groups."""
        cluster = self.ray_cluster()
        return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]

    def pod_templates(self) -> Iterator[Document]:
        """Yield every pod template that the chart brings: Ray nodes, Jobs, test pods."""
        for group in self.ray_groups():
            yield group["template"]
        for job in self.of_kind("Job"):
            yield job["spec"]["template"]
        yield from self.of_kind("Pod")


@dataclass(frozen=True, slots=True)
class Helm:
    """Runs one Helm binary on the chart."""

    binary: Path

    def run(self, *arguments: str) -> str:
        """Return what a Helm command prints; ChartRefusedError with its message if it fails."""
        result = subprocess.run(
            [self.binary, *arguments], capture_output=True, text=True, timeout=HELM_TIMEOUT_S, check=False
        )
        if result.returncode != 0:
            raise ChartRefusedError(result.stderr + result.stdout)
        return result.stdout

    def template(self, files: Sequence[Path] = (), settings: Sequence[str] = (), release: str = RELEASE) -> Rendered:
        """Return the chart rendered with values files and `--set-json` settings (`path=json`)."""
        text = self.run("template", release, str(CHART), "--namespace", "models", *_options(files, settings))
        documents = yaml.load_all(text, _NoDuplicateKeysLoader)
        return Rendered(tuple(document for document in documents if document))

    def notes(self, files: Sequence[Path] = ()) -> str:
        """Return what an installation prints for its reader, without a cluster."""
        text = self.run(
            "install", RELEASE, str(CHART), "--namespace", "models", "--dry-run=client", *_options(files, ())
        )
        return text.split("NOTES:\n", 1)[1]

    def lint(self, files: Sequence[Path] = ()) -> str:
        """Return the report of `helm lint --strict`."""
        return self.run("lint", "--strict", str(CHART), *_options(files, ()))


def _options(files: Sequence[Path], settings: Sequence[str]) -> list[str]:
    options = [option for file in files for option in ("--values", str(file))]
    return options + [option for setting in settings for option in ("--set-json", setting)]


def setting(path: str, value: object) -> str:
    """Return a `--set-json` setting."""
    return f"{path}={json.dumps(value)}"
