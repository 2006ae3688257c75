"""How many threads compute: one number for the native kernels, and what follows for torch.

Where the native kernels do the work, torch runs on one thread: its own threads wait for each other by spinning, which
on a machine that is busy with something else makes a step fifty times slower, and what is left to torch is small.
"""

import torch

from model.kernels.native_library import native_library

_state = {"num_threads": 1}


def use_threads(count: int) -> None:
    """Compute with `count` threads from now on, in the whole process. It has no influence on bits."""
    _state["num_threads"] = count
    torch.set_num_threads(count if native_library() is None else 1)


def num_threads() -> int:
    """Return the threads of the native kernels."""
    return _state["num_threads"]
