"""How much memory is free for the KV cache, on a device or on the host."""

import os
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: str) -> int:
    """Return the bytes free on `device`; on the host as far as a container's limit allows."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return host_free_bytes(Path("/proc/meminfo"), _CGROUP)


def host_free_bytes(meminfo: Path, cgroup: Path) -> int:
    """Return the host's free bytes, from Linux's files where they are, else half of its physical memory."""
    free = _available(meminfo)
    if free is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    return free if limit is None or used is None else max(0, min(free, limit - used))


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def _number(file: Path) -> int | None:
    """Return the number in a file; None if there is none, as `max` in a cgroup without a limit."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
