"""The table of dtypes per numerics mode (N0), and nothing that computes.

A mode fixes where values are rounded. The local path rounds exactly where a wire would, so that moving an
expert to another process changes no bit.
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class Numerics:
    """Where one mode rounds: the dtype of each value that is stored or crosses a process."""

    mode: str
    residual: torch.dtype
    expert_input: torch.dtype
    expert_output: torch.dtype
    kv: torch.dtype
    logits: torch.dtype = torch.float32
    has_int8_experts: bool = False
    """MXFP4 matmuls round their rows to eight bits per block of 32. Dense weights are bf16 and leave no integer product
    to gain by it: their rows stay whole."""

    @classmethod
    def of(cls, mode: str, kv_cache_dtype: str = "auto") -> "Numerics":
        """Return the row of the table for `mode`, with keys and values in 8 bits where `kv_cache_dtype` is int8.

        Raises ValueError naming what is known.
        """
        if mode not in MODES:
            raise ValueError(f"numerics mode {mode!r} is unknown; known: {', '.join(MODES)}")
        if kv_cache_dtype not in {"auto", "int8"}:
            raise ValueError(f"kv_cache_dtype is {kv_cache_dtype!r}; known: auto, int8")
        return replace(MODES[mode], kv=torch.int8) if kv_cache_dtype == "int8" else MODES[mode]

    @property
    def name(self) -> str:
        """Return the mode, and what differs from its row of the table."""
        return self.mode if self == MODES[self.mode] else f"{self.mode}, KV {str(self.kv).removeprefix('torch.')}"


MODES: dict[str, Numerics] = {
    numerics.mode: numerics
    for numerics in (
        Numerics("float32", torch.float32, torch.float32, torch.float32, torch.float32),
        Numerics("precise", torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16),
        Numerics("int8", torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16, has_int8_experts=True),
        Numerics("bf16", torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.bfloat16),
    )
}
