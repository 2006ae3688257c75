"""Building the native CPU kernels: for this processor into the user's cache, or beforehand for any of its kind.

`python -m model.kernels.native_build` builds one library for each level of instructions beside the sources, as the
container image has them: where these are, no compiler is needed, and the processor chooses when the kernels are loaded.
All builds have the same bits.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from model.cache_dir import cache_dir

SOURCES = Path(__file__).parent / "native"
PREBUILT = SOURCES / "built"
BUILD_TIMEOUT_S = 180
LEFT_OUT = {"auto": (), "avx2": ("-mno-avx512f",), "generic": ("-mno-avx512f", "-mno-avx2")}
"""Compiler flags of an x86 build for this processor that is to use no more than the named instructions."""
_EXACT = ("-fno-math-errno", "-ffp-contract=off")
"""A product and a sum are fused only where the source says so."""
_PORTABLE = {
    "avx512": ("-march=x86-64-v4", "-mavx512vnni"),
    "avx2": ("-march=x86-64-v3",),
    "generic": ("-march=x86-64",),
}
"""Compiler flags of x86 builds for any processor that has the instructions, best first."""
_V3 = {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"}
_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_FLAGS = {"avx512": _V3 | _V4 | {"avx512_vnni"}, "avx2": _V3, "generic": set[str]()}
"""What Linux calls the instructions of each portable build."""


def prebuilt(instructions: str) -> Path | None:
    """Return the best library that was built beforehand, with at most `instructions`, for this processor and source."""
    levels = list(_PORTABLE)
    for level in levels[levels.index(instructions) if instructions in levels else 0 :]:
        path = PREBUILT / _prebuilt_name(level)
        if path.exists() and processor_flags() >= _FLAGS[level]:
            return path
    return None


def build(instructions: str) -> Path:
    """Return the library for this processor with at most `instructions`, built once for all processes of the user.

    Raises OSError or SubprocessError where it cannot be built.
    """
    tuning = ("-mcpu=native",) if _is_arm() else ("-march=native", *LEFT_OUT[instructions])
    command = _command(tuning)
    target = cache_dir() / "kernels" / f"{_key(command)}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _compile(command, target)
    return target


@cache
def source_digest() -> str:
    """Return 8 hex digits over the kernels' source."""
    return hashlib.sha256(_source()).hexdigest()[:8]


@cache
def processor_flags() -> frozenset[str]:
    """Return what Linux names of the first processor's instructions; nothing on other systems."""
    for line in _processor().splitlines():
        name, _, words = line.partition(":")
        if name.strip() == "flags":
            return frozenset(words.split())
    return frozenset()


def build_all(levels: list[str]) -> None:
    """Build a library for each of the levels beside the sources; raises OSError or SubprocessError."""
    PREBUILT.mkdir(exist_ok=True)
    for level in levels:
        _compile(_command(() if _is_arm() else _PORTABLE[level]), PREBUILT / _prebuilt_name(level))


def _prebuilt_name(level: str) -> str:
    return f"{platform.machine()}-{level}-{source_digest()}.so"


def _is_arm() -> bool:
    return platform.machine() in {"arm64", "aarch64"}


def _command(tuning: tuple[str, ...]) -> list[str]:
    return [_compiler(), "-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", *tuning, *_EXACT]


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise FileNotFoundError("there is no C++ compiler (install g++ for fast CPU kernels)")


def _key(command: list[str]) -> str:
    """Return what the build depends on: source, flags, compiler version, and what `native` means on this processor."""
    version = subprocess.run([command[0], "--version"], capture_output=True, check=True, timeout=BUILD_TIMEOUT_S)
    parts = (_source(), " ".join(command).encode(), version.stdout, _processor().encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _source() -> bytes:
    return b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.suffix in {".cpp", ".h"})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _compile(command: list[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / "kernels.so"
        subprocess.run(
            [*command, "-o", str(built), *map(str, sorted(SOURCES.glob("*.cpp")))],
            capture_output=True,
            check=True,
            timeout=BUILD_TIMEOUT_S,
        )
        built.replace(target)


def main() -> None:
    """Build for every level of this kind of processor."""
    build_all(["generic"] if _is_arm() else list(_PORTABLE))
    sys.stdout.write("".join(f"{path}\n" for path in sorted(PREBUILT.iterdir())))


if __name__ == "__main__":
    main()
