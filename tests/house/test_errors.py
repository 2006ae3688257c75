"""Every error of ours belongs to one tree, is drawn at the top of its file, and has an answer over HTTP and gRPC."""

import ast
import builtins
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

import cluster.errors
import model.errors
import router.errors
from cluster.errors import ClusterError
from model.errors import ModelError
from router.errors import RequestError, RouterError, answer_to
from tests.house.source_tree import PACKAGES, sources

TREES: tuple[tuple[ModuleType, type[Exception]], ...] = (
    (cluster.errors, ClusterError),
    (model.errors, ModelError),
    (router.errors, RouterError),
)
BUILTIN_ERRORS = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}

GRPC_ERRORS = {
    "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED",
}  # fmt: skip
"""https://grpc.io/docs/guides/status-codes/ without OK, by name: the house's rules are checked without gRPC too."""


def descendants(root: type[Exception]) -> Iterator[type[Exception]]:
    """Yield an error class and all that our packages derive from it."""
    yield root
    for child in root.__subclasses__():
        if child.__module__.split(".")[0] in PACKAGES:
            yield from descendants(child)


def unmapped(errors: Iterator[type[Exception]], answer: Callable[[BaseException], RequestError]) -> list[str]:
    """Return the errors that are answered like an unknown fault, or without proper HTTP and gRPC statuses."""
    unknown = answer(Exception()).message
    found: list[str] = []
    for error in errors:
        given = error.__new__(error)  # its class decides, not its arguments
        result = answer(given)
        is_unknown = result is not given and result.message == unknown
        if is_unknown or not 400 <= result.status < 600 or result.grpc_status not in GRPC_ERRORS:
            found.append(f"{error.__name__}: {result.status} {result.grpc_status}")
    return found


def strays(files: dict[str, str]) -> list[str]:
    """Return the error classes that derive from a built-in error elsewhere than at the root of a tree.

    A private one is a matter between two functions of its file.
    """
    roots = {root.__name__ for _, root in TREES}
    found: list[str] = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name not in roots and not node.name.startswith("_"):
                bases = {ast.unparse(base) for base in node.bases}
                if bases & BUILTIN_ERRORS:
                    found.append(f"{path}: {node.name}")
    return found


def undrawn(text: str) -> list[str]:
    """Return the error classes of a file that the tree in its docstring does not show."""
    tree = ast.parse(text)
    drawing = (ast.get_docstring(tree) or "").replace("(", " ").split()
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.bases]
    return [node.name for node in classes if ast.unparse(node.bases[0]) != "TypedDict" and node.name not in drawing]


@pytest.mark.parametrize("root", [root for _, root in TREES], ids=lambda root: root.__name__)
def test_every_error_has_an_answer(root: type[Exception]) -> None:
    assert unmapped(descendants(root), answer_to) == []


@pytest.mark.parametrize("module", [module for module, _ in TREES], ids=lambda module: module.__name__)
def test_every_error_is_drawn_in_its_tree(module: ModuleType) -> None:
    path = f"{module.__name__.replace('.', '/')}.py"
    assert undrawn(sources()[path]) == []


def test_every_error_belongs_to_a_tree() -> None:
    assert strays(sources()) == []


def test_an_unmapped_error_is_found() -> None:
    class Unheard(Exception):
        """Nobody answers it."""

    class Odd(RequestError):
        """Its statuses are none."""

        status = 200
        grpc_status = "FINE"

    assert unmapped(iter([Unheard, Odd, router.errors.InvalidRequest]), answer_to) == [
        "Unheard: 500 INTERNAL",
        "Odd: 200 FINE",
    ]


def test_an_error_outside_the_trees_or_their_drawing_is_found() -> None:
    drawing = '"""Errors.\n\nClusterError\n└── Lost  gone\n"""\n'
    text = drawing + "class ClusterError(Exception): ...\nclass Lost(ClusterError): ...\n"
    assert strays({"cluster/a.py": text}) == []
    assert strays({"cluster/a.py": "class Stray(ValueError): ...\n"}) == ["cluster/a.py: Stray"]
    assert undrawn(text) == []
    assert undrawn(text + "class Broken(ClusterError): ...\n") == ["Broken"]
