"""Errors after which a device computes nothing more in this process."""

import torch

_ACCELERATOR_ERROR: type[Exception] | None = getattr(torch, "AcceleratorError", None)


def is_device_lost(error: BaseException) -> bool:
    """Say whether the device's context is broken: every call after such an error fails too, memory exhausted does not.

    Older torch has no class of its own for it and says `CUDA error` in a RuntimeError.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return False
    is_own_class = _ACCELERATOR_ERROR is not None and isinstance(error, _ACCELERATOR_ERROR)
    return is_own_class or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
