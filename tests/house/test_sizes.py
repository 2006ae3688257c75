"""A function fits on a screen, a file holds one noun."""

import ast

from tests.house.source_tree import sources

MAX_FUNCTION_LINES = 60
MAX_KERNEL_LINES = 120
MAX_FILE_LINES = 400


def long_functions(path: str, text: str) -> list[str]:
    """Return the functions of a file that pass the limit: 120 lines for a kernel body, 60 for anything else."""
    limit = MAX_KERNEL_LINES if path.startswith("model/kernels/_") else MAX_FUNCTION_LINES
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > limit:
                found.append(f"{path}:{node.lineno} {node.name} has {num_lines} lines, {limit} are allowed")
    return found


def long_files(files: dict[str, str]) -> list[str]:
    """Return the files that pass the limit of lines."""
    counts = {path: len(text.splitlines()) for path, text in files.items()}
    return [f"{path} has {count} lines" for path, count in counts.items() if count > MAX_FILE_LINES]


def all_sources() -> dict[str, str]:
    """Return everything that people write in a programming language here."""
    python = sources("cluster", "model", "protos", "router", "setup", "tests")
    native = {path: text for ending in (".cpp", ".h", ".sh", ".proto") for path, text in sources(ending=ending).items()}
    return python | native


def test_functions_fit_on_a_screen() -> None:
    files = all_sources()
    assert [each for path in files if path.endswith(".py") for each in long_functions(path, files[path])] == []


def test_files_hold_one_noun() -> None:
    assert long_files(all_sources()) == []


def test_a_function_of_61_lines_is_found_and_one_of_60_is_not() -> None:
    body = "    pass\n"
    assert long_functions("model/moe.py", "def f():\n" + body * 59) == []
    assert long_functions("model/moe.py", "async def f():\n" + body * 59) == []
    assert len(long_functions("model/moe.py", "def f():\n" + body * 60)) == 1


def test_a_kernel_body_may_have_120_lines() -> None:
    assert long_functions("model/kernels/_linear_triton.py", "def f():\n" + "    pass\n" * 119) == []
    assert len(long_functions("model/kernels/_linear_triton.py", "def f():\n" + "    pass\n" * 120)) == 1


def test_a_file_of_401_lines_is_found() -> None:
    assert long_files({"a.py": "x\n" * 400}) == []
    assert long_files({"a.py": "x\n" * 401}) == ["a.py has 401 lines"]
