"""Every module has a reader, and every path that the documents name is there."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.source_tree import PACKAGES, ROOT, module_name, sources

RUN_BY_NAME = {
    "router.cli": "the console script",
    "router.deployments": "Ray Serve imports it by the name in its config",
    "cluster.launch": "the cluster without Ray, for tests and one-GPU experiments",
}
"""Modules that no other module imports and that are no programs, and why they are there all the same."""


def imported_modules(files: dict[str, str]) -> set[str]:
    """Return every module that one of the files imports, and the packages that these lie in."""
    names: set[str] = set()
    for path, text in files.items():
        package = (
            module_name(path).split(".")[:-1] if not path.endswith("__init__.py") else module_name(path).split(".")
        )
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return {name.rsplit(".", num)[0] for name in names for num in range(name.count(".") + 1)}


def orphans(files: dict[str, str]) -> list[str]:
    """Return the modules among `files` that none of them imports. Tests are no readers.

    A program (`python -m`, known by its `__main__`) needs no reader, nor does a package that is only a docstring.
    """
    known = imported_modules(files) | RUN_BY_NAME.keys()
    unread = [(module_name(path), text) for path, text in files.items() if module_name(path) not in known]
    return [name for name, text in unread if "__main__" not in name + text and len(ast.parse(text).body) > 1]


def named_paths(text: str, roots: set[str]) -> set[str]:
    """Return the paths that a Markdown document names: link targets, `code` that looks like one, and drawn trees.

    Code is a path if it starts with an entry of `roots` (what lies at the top of the checkout) followed by a slash, or
    if it is one file name with the ending of a source, a document or a config.
    """
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    code = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    fences = re.findall(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    tree = [line.split()[0] for fence in fences for line in fence.splitlines() if re.match(r"\S+/?(\s{2,}|$)", line)]
    files = re.compile(r"(\./)?[\w.-]+\.(py|md|toml|txt|ya?ml|proto|svg|sh)")
    words = [word.removeprefix("./") for phrase in code for word in phrase.split()]
    paths = [word for word in words if files.fullmatch(word) or ("/" in word and word.split("/")[0] in roots)]
    return {path.removeprefix("./").rstrip("/") for path in [*links, *paths, *tree]}


def missing_paths(document: Path) -> list[str]:
    """Return the paths that a document names and that are neither beside it nor in the checkout."""
    roots = {entry.name for entry in ROOT.iterdir()}
    return sorted(
        path
        for path in named_paths(document.read_text(encoding="utf-8"), roots)
        if not any((base / path).exists() or list(base.glob(path)) for base in (ROOT, document.parent))
    )


DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for folder in (*PACKAGES, "helm", "tests") for path in (ROOT / folder).rglob("*.md")),
]


def test_every_module_is_imported_by_another() -> None:
    assert orphans(sources()) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_path_in_a_document_is_there(document: Path) -> None:
    assert missing_paths(document) == []


def test_a_module_nobody_imports_is_found() -> None:
    files = {"model/a.py": "from model import b\n", "model/b.py": "from . import c\n", "model/c.py": "import model.a\n"}
    assert orphans(files) == []
    reader = '"""D."""\nimport model.a\n'
    assert orphans(files | {"model/d.py": reader}) == ["model.d"]
    assert orphans(files | {"model/d.py": reader + "if __name__ == '__main__':\n    pass\n"}) == []
    assert orphans(files | {"model/data/__init__.py": '"""Only data."""\n'}) == []


def test_a_relative_import_counts_from_its_package() -> None:
    files = {
        "model/x/__init__.py": "from .a import one\n",
        "model/x/a.py": "from ..b import two\n",
        "model/b.py": "import model.x\n",
    }
    assert orphans(files) == []


def test_paths_are_found_in_links_code_and_trees() -> None:
    text = (
        "See [it](docs/a.md), `configs/tiny.yaml`, `./run tests`, `/v1/models`, `openai/gpt-oss-20b` and `setup.cfg`.\n"
    )
    text += "```text\nmodel/   mathematics\n  moe.py  gate\nLICENSE\n```\n```sh\ncat nothing.md\n```\n"
    assert named_paths(text, {"configs", "model"}) == {"docs/a.md", "configs/tiny.yaml", "model", "LICENSE"}
