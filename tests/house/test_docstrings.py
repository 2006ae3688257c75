"""Every module and everything public says what it is for, and documents only arguments that it has."""

import ast
import re

import pytest

from tests.house.source_tree import sources

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def undocumented(path: str, text: str) -> list[str]:
    """Return the module, public classes, functions and methods of a file that have no docstring.

    Magic methods say what they do by their name, a property's setter by its getter, an override by what it overrides.
    """
    tree = ast.parse(text)
    found = [] if ast.get_docstring(tree) or not text.strip() else [f"{path}: module"]
    return found + [f"{path}:{node.lineno} {node.name}" for node in _public(tree) if not _is_documented(node)]


def unknown_arguments(path: str, text: str) -> list[str]:
    """Return what docstrings document as arguments (Google's `Args:` section) and the signature does not have."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            missing = _documented_arguments(ast.get_docstring(node) or "") - _arguments(node)
            found += [f"{path}:{node.lineno} {node.name} has no argument {name}" for name in sorted(missing)]
    return found


def _public(node: ast.Module | ast.ClassDef) -> list[Documented]:
    children = [child for child in node.body if isinstance(child, Documented) and not child.name.startswith("_")]
    return children + [inner for child in children if isinstance(child, ast.ClassDef) for inner in _public(child)]


def _is_documented(node: Documented) -> bool:
    decorators = [ast.unparse(each) for each in node.decorator_list]
    return bool(ast.get_docstring(node)) or any(
        re.search(r"(\.setter|overload|override)$", name) for name in decorators
    )


def _documented_arguments(docstring: str) -> set[str]:
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, flags=re.MULTILINE)
    return set(re.findall(r"^    \*{0,2}(\w+)(?: \([^)]*\))?:", section[1], flags=re.MULTILINE)) if section else set()


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in every if argument is not None}


def test_everything_public_has_a_docstring() -> None:
    files = sources("cluster", "model", "protos", "router", "configs", "setup")
    assert [each for path, text in files.items() for each in undocumented(path, text)] == []


def test_every_test_file_says_what_it_is_about() -> None:
    files = sources("tests")
    assert [path for path, text in files.items() if not ast.get_docstring(ast.parse(text))] == []


def test_documented_arguments_exist() -> None:
    files = sources("cluster", "model", "protos", "router", "setup", "tests")
    assert [each for path, text in files.items() for each in unknown_arguments(path, text)] == []


@pytest.mark.parametrize(
    ("text", "num_found"),
    [
        ('"""A module."""\n', 0),
        ("x = 1\n", 1),
        ('"""A."""\ndef f(): ...\n', 1),
        ('"""A."""\ndef _f(): ...\n', 0),
        ('"""A."""\nclass C:\n    """C."""\n    def f(self): ...\n    def _g(self): ...\n', 1),
        ('"""A."""\nclass C:\n    """C."""\n    def __len__(self): ...\n', 0),
        ('"""A."""\nclass C:\n    """C."""\n    @override\n    async def f(self): ...\n', 0),
    ],
)
def test_what_has_no_docstring_is_found(text: str, num_found: int) -> None:
    assert len(undocumented("a.py", text)) == num_found


def test_an_argument_that_does_not_exist_is_found() -> None:
    docstring = (
        "Do.\n\n    Args:\n        a: one\n        b (int): two\n        d: none\n\n    Returns:\n        e: x\n    "
    )
    text = f'def f(a, *b, c=1):\n    """{docstring}"""\n'
    assert unknown_arguments("a.py", text) == ["a.py:1 f has no argument d"]
