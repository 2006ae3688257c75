"""Looks at the machine set-up runs on and returns a `Machine` value."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setup.checks import Machine


def probe(root: Path) -> Machine:
    """Return what this machine is; free space is measured on the disk of `root`."""
    libc, libc_version = platform.libc_ver()
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        is_64bit=sys.maxsize > 2**32,
        libc=libc,
        libc_version=tuple(int(part) for part in libc_version.split(".") if part.isdigit()),
        python_version=(sys.version_info.major, sys.version_info.minor),
        has_venv=has_venv(),
        has_gpu=has_gpu(),
        has_compiler=any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name),
        free_bytes=shutil.disk_usage(root).free,
        memory_bytes=memory_bytes(),
        package_manager=next(
            (name for name in ("apt", "dnf", "zypper") if shutil.which(f"{name}-get") or shutil.which(name)), None
        ),
    )


def has_venv() -> bool:
    """Return whether this Python can make an environment with pip; Debian ships both modules apart."""
    return all(importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip"))


def has_gpu() -> bool:
    """Return whether an NVIDIA GPU and its driver are here."""
    listing = shutil.which("nvidia-smi")
    if listing is None:
        return Path("/dev/nvidia0").exists()
    try:
        result = subprocess.run([listing, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0 and "GPU" in result.stdout


def memory_bytes() -> int | None:
    """Return the memory this process may use: the machine's, or its control group's when that is less."""
    limits = [limit for limit in (_physical_bytes(), _cgroup_bytes()) if limit is not None]
    return min(limits, default=None)


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _cgroup_bytes() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None
