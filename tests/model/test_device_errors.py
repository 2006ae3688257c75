"""Which errors mean that a device is lost, and which ones the next step may survive."""

import pytest
import torch

from model.device_errors import is_device_lost


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("CUDA error: said by somebody else"), False),
    ],
)
def test_a_lost_device_is_told_from_a_failed_step(error: Exception, expected: bool) -> None:
    assert is_device_lost(error) is expected


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch has no class for it")
def test_torchs_own_class_counts() -> None:
    assert is_device_lost(torch.AcceleratorError("device-side assert triggered"))
