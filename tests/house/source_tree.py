"""The checkout as the house tests see it: its own files as text, without generated code."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "model", "protos", "router")
GENERATED = ("_pb2.py", "_pb2_grpc.py", "_pb2.pyi", "_pb2_grpc.pyi")


def sources(*folders: str, ending: str = ".py") -> dict[str, str]:
    """Return path -> text of the files below `folders` (by default our packages), paths relative to the checkout."""
    found: dict[str, str] = {}
    for folder in folders or PACKAGES:
        for path in sorted((ROOT / folder).rglob(f"*{ending}")):
            if not path.name.endswith(GENERATED) and "__pycache__" not in path.parts:
                found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return found


def module_name(path: str) -> str:
    """Return the module that a file is: `model/moe.py` is model.moe, `model/__init__.py` is model."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
