"""The native CPU kernels, loaded by ctypes: those that came prebuilt, or else built once into the user's cache.

Where there is no compiler the torch twins take over, and the log says why. EXPERTMESH_KERNELS=torch asks for
the twins, EXPERTMESH_KERNELS=native makes their absence an error. Both give row-independent results, with different
bits, so the choice is part of the numerics fingerprint.

The build takes the best instructions of the processor: AVX-512 with VNNI, AVX2, or what any compiler makes of plain
loops. EXPERTMESH_INSTRUCTIONS=avx2 or =generic leaves out what lies above. All builds have the same bits.
"""

import ctypes
import logging
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from model.errors import KernelsUnavailable
from model.kernels.native_build import LEFT_OUT, build, prebuilt, source_digest

logger = logging.getLogger(__name__)
CHOICE_VARIABLE = "EXPERTMESH_KERNELS"
INSTRUCTIONS_VARIABLE = "EXPERTMESH_INSTRUCTIONS"
_INSTRUCTION_LEVELS = {0: "generic", 2: "avx2", 3: "avx512"}


@dataclass(frozen=True, slots=True)
class NativeLibrary:
    """The loaded kernels. Tensors given to `call` are contiguous and live on the CPU."""

    library: ctypes.CDLL
    version: str
    """Digest of the source, and the instruction level it was built for."""

    def call(self, function: str, *arguments: Tensor | int, threads: int | None = None) -> int:
        """Call a kernel: tensors go as pointers, integers as int64, the thread count last as int.

        Returns what the kernel returns; of those that return nothing, nothing that means anything.
        """
        converted: list[object] = [
            ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor) else ctypes.c_int64(each) for each in arguments
        ]
        if threads is not None:
            converted.append(ctypes.c_int(threads))
        return getattr(self.library, function)(*converted)


@dataclass(frozen=True, slots=True)
class NativeKernels:
    """What became of the native kernels on this machine."""

    library: NativeLibrary | None
    reason: str
    """Why they are in use, or why not."""


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
        logger.warning("PyTorch computes in place of the faster CPU kernels: %s", _words(error))
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
    if instructions not in LEFT_OUT:
        raise KernelsUnavailable(f"{INSTRUCTIONS_VARIABLE}={instructions}; wanted one of {', '.join(LEFT_OUT)}")
    return _load(prebuilt(instructions) or build(instructions))


def _load(path: Path) -> NativeLibrary:
    library = ctypes.CDLL(str(path))
    level = _INSTRUCTION_LEVELS[library.em_instruction_level()]
    return NativeLibrary(library, f"{source_digest()}/{level}")


def _words(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"the C++ compiler failed: {error.stderr.decode(errors='replace').strip()[-500:]}"
    return str(error)
