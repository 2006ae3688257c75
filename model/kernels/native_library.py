"""The native CPU kernels: built once per source, compiler and processor into the user's cache, loaded by ctypes.

Where there is no compiler the torch twins take over; `native_library()` says why. EXPERTMESH_KERNELS=torch asks for
the twins, EXPERTMESH_KERNELS=native makes their absence an error. Both give row-independent results, with different
bits, so the choice is part of the numerics fingerprint.

The build takes the best instructions of the processor: AVX-512 with VNNI, AVX2, or what any compiler makes of plain
loops. EXPERTMESH_INSTRUCTIONS=avx2 or =generic leaves out what lies above. All builds have the same bits.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from model.cache_dir import cache_dir
from model.errors import KernelsUnavailable

SOURCES = Path(__file__).parent / "native"
BUILD_TIMEOUT_S = 180
CHOICE_VARIABLE = "EXPERTMESH_KERNELS"
_EXACT = ("-fno-math-errno", "-ffp-contract=off")
"""A product and a sum are fused only where the source says so."""
INSTRUCTIONS_VARIABLE = "EXPERTMESH_INSTRUCTIONS"
_LEFT_OUT = {"auto": (), "avx2": ("-mno-avx512f",), "generic": ("-mno-avx512f", "-mno-avx2")}
"""Compiler flags of an x86 build that is to use no more than the named instructions."""
_INSTRUCTION_LEVELS = {0: "generic", 2: "avx2", 3: "avx512"}


@dataclass(frozen=True, slots=True)
class NativeLibrary:
    """The loaded kernels. Tensors given to `call` are contiguous and live on the CPU."""

    library: ctypes.CDLL
    version: str
    """Digest of the source, and the instruction level it was built for."""

    def call(self, function: str, *arguments: Tensor | int, threads: int | None = None) -> None:
        """Call a kernel: tensors go as pointers, integers as int64, the thread count last as int."""
        converted: list[object] = [
            ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor) else ctypes.c_int64(each) for each in arguments
        ]
        if threads is not None:
            converted.append(ctypes.c_int(threads))
        getattr(self.library, function)(*converted)


@dataclass(frozen=True, slots=True)
class NativeKernels:
    """What became of the native kernels on this machine."""

    library: NativeLibrary | None
    reason: str
    """Why they are in use, or why not; for logs and /ready."""


@cache
def native_kernels() -> NativeKernels:
    """Return the native kernels, built if they were not yet; the same answer for the life of the process.

    Raises KernelsUnavailable if the environment demands them and they cannot be built.
    """
    choice = os.environ.get(CHOICE_VARIABLE, "auto")
    if choice == "torch":
        return NativeKernels(None, f"{CHOICE_VARIABLE}=torch")
    try:
        library = build_library(os.environ.get(INSTRUCTIONS_VARIABLE, "auto"))
    except (OSError, subprocess.SubprocessError) as error:
        if choice == "native":
            raise KernelsUnavailable(f"{CHOICE_VARIABLE}=native, but {_words(error)}") from error
        return NativeKernels(None, _words(error))
    return NativeKernels(library, f"native kernels {library.version}")


def native_library() -> NativeLibrary | None:
    """Return the native kernels, or None where the torch twins are in use."""
    return native_kernels().library


def required_library() -> NativeLibrary:
    """Return the native kernels where the caller has already seen that they are in use."""
    library = native_library()
    assert library is not None, "a native kernel was called where none was built"
    return library


def build_library(instructions: str) -> NativeLibrary:
    """Return the kernels limited to `instructions`: "avx2", "generic", or "auto" for the best; built if need be.

    Raises KernelsUnavailable for another word, OSError or SubprocessError where they cannot be built.
    """
    if instructions not in _LEFT_OUT:
        raise KernelsUnavailable(f"{INSTRUCTIONS_VARIABLE}={instructions}; wanted one of {', '.join(_LEFT_OUT)}")
    return _load(_build(_LEFT_OUT[instructions]))


def _build(left_out: tuple[str, ...]) -> Path:
    compiler = _compiler()
    is_arm = platform.machine() in {"arm64", "aarch64"}
    tuning = ("-mcpu=native",) if is_arm else ("-march=native", *left_out)
    command = [compiler, "-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", *tuning, *_EXACT]
    target = cache_dir() / "kernels" / f"{_key(command)}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _compile(command, target)
    return target


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


def _load(path: Path) -> NativeLibrary:
    library = ctypes.CDLL(str(path))
    level = _INSTRUCTION_LEVELS[library.em_instruction_level()]
    return NativeLibrary(library, f"{hashlib.sha256(_source()).hexdigest()[:8]}/{level}")


def _words(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"the C++ compiler failed: {error.stderr.decode(errors='replace').strip()[-500:]}"
    return str(error)
