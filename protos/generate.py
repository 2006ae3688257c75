"""Generates the Python code of every .proto file here: `python -m protos.generate [--check]`.

With --check nothing is written, and the exit status is 1 if a committed file is stale, missing or left over. Needs
grpcio-tools; its pinned version decides the oldest protobuf and grpcio that the generated code accepts.
"""

import argparse
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ENDINGS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def generate() -> dict[str, str]:
    """Return the text of every generated file by its name; raises RuntimeError if protoc refuses a file."""
    from grpc_tools import protoc  # a tool of developers, absent where the generated code only runs

    protos = sorted(path.name for path in FOLDER.glob("*.proto"))
    with tempfile.TemporaryDirectory() as temporary:
        # From the folder above, so that generated files import each other as `from protos import ...`.
        outputs = [f"--{kind}_out={temporary}" for kind in ("python", "pyi", "grpc_python")]
        sources = [f"{FOLDER.name}/{name}" for name in protos]
        status = protoc.main(["protoc", f"-I{FOLDER.parent}", *outputs, *sources])
        if status != 0:
            raise RuntimeError(f"protoc ended with status {status} on {', '.join(protos)}")
        return {path.name: path.read_text(encoding="utf-8") for path in (Path(temporary) / FOLDER.name).iterdir()}


def committed() -> dict[str, str]:
    """Return the text of the generated files that lie here, by name."""
    files = [path for path in FOLDER.iterdir() if path.name.endswith(ENDINGS)]
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return one line for each file of `found` that is not as wanted."""
    missing = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    left_over = [f"{name} belongs to no .proto file" for name in found.keys() - wanted.keys()]
    stale = [f"{name} is stale" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    return sorted([*missing, *left_over, *stale])


def main(arguments: list[str] | None = None) -> int:
    """Generate, or check; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description="Generate code from .proto files.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a committed file is not fresh")
    is_check = parser.parse_args(arguments).check
    wanted = generate()
    changes = differences(wanted, committed())
    if is_check:
        sys.stderr.writelines(f"{line}; run python -m protos.generate\n" for line in changes)
        return 1 if changes else 0
    for path in FOLDER.iterdir():
        if path.name.endswith(ENDINGS) and path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
