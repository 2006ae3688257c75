"""The numerics fingerprint: what decides bits, in one short word.

Two processes with equal fingerprints may answer for each other; with different ones, bits may differ (N6).
"""

import hashlib
import platform
from pathlib import Path

import torch

from model.kernels.attention_tiles import SPLIT_TOKENS
from model.kernels.linear import ROW_TILE
from model.kernels.native_library import native_library
from model.numerics import Numerics

_CPU_FIELDS = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
TWINS_VERSION = 1
"""Raised whenever the torch twins' bits change."""


def kernel_build(device: str) -> str:
    """Return name and version of the kernels in use on `device`."""
    library = native_library() if torch.device(device).type == "cpu" else None
    native = "" if library is None else f"native-{library.version}+"
    return f"{native}torch-{TWINS_VERSION}/tile{ROW_TILE}/split{SPLIT_TOKENS}"


def numerics_fingerprint(device: str, numerics: Numerics) -> str:
    """Return 16 hex digits over mode and KV format, kernel build, library versions and the device's model."""
    parts = (numerics.name, kernel_build(device), torch.__version__, platform.machine(), *_device_parts(device))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def joint_fingerprint(attention: str, experts: str | None) -> str:
    """Return one fingerprint for both roles: that of attention where the experts have the same, or are beside it."""
    if experts is None or experts == attention:
        return attention
    return hashlib.sha256(f"{attention}\n{experts}".encode()).hexdigest()[:16]


def _device_parts(device: str) -> tuple[str, ...]:
    if torch.device(device).type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        return ("cuda", str(torch.version.cuda), name, str(capability))
    return ("cpu", torch.backends.cpu.get_cpu_capability(), *_cpu_model())


def _cpu_model() -> tuple[str, ...]:
    """Return what Linux tells of the first processor: vendor libraries choose their code by it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return (platform.processor(),)
    first = text.split("\n\n", maxsplit=1)[0]
    lines = dict(line.split(":", maxsplit=1) for line in first.splitlines() if ":" in line)
    stripped = {key.strip(): value.strip() for key, value in lines.items()}
    return tuple(stripped.get(field, "") for field in _CPU_FIELDS)
