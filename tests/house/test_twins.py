"""Every kernel has a torch twin of the same signature, a parity test, and a test that its rows are independent."""

import ast
import inspect
import re
from types import ModuleType

import pytest

from tests.house.source_tree import sources

KERNELS = "model/kernels"
BACKENDS = ("torch", "native", "triton")


def kernel_names(files: dict[str, str]) -> dict[str, str]:
    """Return kernel -> path of its public file: every name that has a `_torch` twin or a body in a `_*` file.

    `files` are those of the kernels' folder. A body is a public function of a file that starts with an underscore; its
    name is the kernel's, with the backend behind (`linear_triton` in `_linear_triton.py` belongs to `linear`).
    """
    found: dict[str, str] = {}
    for path, text in files.items():
        folder, _, file = path.rpartition("/")
        functions = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        public = [name for name in functions if not name.startswith("_")]
        if file.startswith("_") and file != "__init__.py":
            backend = file.removesuffix(".py").rpartition("_")[2]
            home = f"{folder}/{file[1:].removesuffix(f'_{backend}.py')}.py"
            found |= {name.removesuffix(f"_{backend}"): home for name in public if name.endswith(f"_{backend}")}
        else:
            found |= {name.removesuffix("_torch"): path for name in public if name.endswith("_torch")}
    return found


def untwinned(name: str, module: ModuleType) -> list[str]:
    """Return what a kernel's public module lacks: the kernel, its twin, or equal signatures."""
    kernel, twin = getattr(module, name, None), getattr(module, f"{name}_torch", None)
    missing = [each for each, value in ((name, kernel), (f"{name}_torch", twin)) if not callable(value)]
    if missing:
        return [f"{module.__name__} has no {each}" for each in missing]
    if inspect.signature(kernel) != inspect.signature(twin):  # pyright: ignore[reportArgumentType]
        return [f"{module.__name__}: {name} and {name}_torch differ in signature"]
    return []


def untested(name: str, tests: dict[str, str]) -> list[str]:
    """Return which tests a kernel lacks: one of its rows' independence (by the test's name), one of its values."""
    using = [each for text in tests.values() for each in users_among_tests(name, text)]
    independent = [each for each in using if "row_independent" in each]
    lacks_values = [] if len(using) > len(independent) else [f"{name} has no parity test"]
    return lacks_values + ([] if independent else [f"{name} has no test with row_independent in its name"])


def users_among_tests(name: str, text: str) -> list[str]:
    """Return the tests of a file that use a kernel, by any backend's name, directly or by helpers and constants."""
    definitions: dict[str, set[str]] = {}
    for node in ast.parse(text).body:
        used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            fixtures = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
            definitions[node.name] = used | fixtures
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            definitions |= {target.id: used for target in targets if isinstance(target, ast.Name)}
    reached = {name, *(f"{name}_{backend}" for backend in BACKENDS)}
    while more := {each for each, used in definitions.items() if used & reached} - reached:
        reached |= more
    return sorted(each for each in reached if each.startswith("test_"))


KERNEL_FILES = sources(KERNELS)
KERNEL_NAMES = kernel_names(KERNEL_FILES)


def test_there_are_kernels() -> None:
    assert KERNEL_NAMES


@pytest.mark.parametrize("name", sorted(KERNEL_NAMES))
def test_every_kernel_has_its_twin(name: str) -> None:
    module = pytest.importorskip(KERNEL_NAMES[name].removesuffix(".py").replace("/", "."))
    assert untwinned(name, module) == []


@pytest.mark.parametrize("name", sorted(KERNEL_NAMES))
def test_every_kernel_is_tested(name: str) -> None:
    assert untested(name, sources(f"tests/{KERNELS}")) == []


def test_names_come_from_twins_and_from_bodies() -> None:
    files = {
        "k/linear.py": "def linear_torch(x): ...\ndef pad(x): ...\nlinear = linear_torch\n",
        "k/_norm_triton.py": "def norm_triton(x): ...\ndef helper(x): ...\n",
        "k/_linear_native.py": "def linear_native(x): ...\n",
        "k/__init__.py": "",
    }
    assert kernel_names(files) == {"linear": "k/linear.py", "norm": "k/norm.py"}


def test_a_kernel_without_twin_or_with_another_signature_is_found() -> None:
    module = ModuleType("kernels")
    exec(
        "def f(a): ...\ndef f_torch(a): ...\ndef g(a): ...\ndef g_torch(a, b=1): ...\ndef h(a): ...\n", module.__dict__
    )
    assert untwinned("f", module) == []
    assert re.search("differ in signature", untwinned("g", module)[0])
    assert untwinned("h", module) == ["kernels has no h_torch"]


def test_a_kernel_that_lacks_a_test_is_found() -> None:
    parity = "def run():\n    return f(1)\ndef test_f_is_right():\n    assert run() == 1\n"
    independence = "def test_f_is_row_independent(op):\n    assert op(1) == op(1)\n"
    independence = "ALL: list[object] = [f_native]\n@parametrize('op', ALL)\n" + independence
    assert untested("f", {"t.py": parity + independence}) == []
    assert untested("f", {"t.py": independence}) == ["f has no parity test"]
    assert untested("f", {"t.py": parity}) == ["f has no test with row_independent in its name"]
    assert len(untested("g", {"t.py": parity + independence})) == 2
