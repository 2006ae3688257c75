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
    """MXFP4 matmuls round their rows to eight bits per block of 32. Dense weights in bf16 leave no integer product to
    gain by it: their rows stay whole; beside dense weights in eight bits rows keep sixteen."""
    has_q8_dense: bool = False
    """Attention's projections and the head are held in 8-bit blocks (Q8_0), which rounds them."""

    @classmethod
    def of(cls, mode: str, kv_cache_dtype: str = "auto", dense_weights: str = "bfloat16") -> "Numerics":
        """Return the row of the table for `mode`, with keys and values in 8 bits where `kv_cache_dtype` is int8.

        `dense_weights` is bfloat16 or float32, between which no bit differs, or q8_0.

        Raises ValueError naming what is known.
        """
        if mode not in MODES:
            raise ValueError(f"numerics mode {mode!r} is unknown; known: {', '.join(MODES)}")
        if kv_cache_dtype not in {"auto", "int8"}:
            raise ValueError(f"kv_cache_dtype is {kv_cache_dtype!r}; known: auto, int8")
        if dense_weights not in {"bfloat16", "float32", "q8_0"}:
            raise ValueError(f"dense_weights is {dense_weights!r}; known: bfloat16, float32, q8_0")
        row = replace(MODES[mode], has_q8_dense=dense_weights == "q8_0")
        return replace(row, kv=torch.int8) if kv_cache_dtype == "int8" else row

    @property
    def name(self) -> str:
        """Return the mode, and what differs from its row of the table."""
        kv = "" if self.kv == MODES[self.mode].kv else f", KV {str(self.kv).removeprefix('torch.')}"
        return self.mode + kv + (", dense q8_0" if self.has_q8_dense else "")


MODES: dict[str, Numerics] = {
    numerics.mode: numerics
    for numerics in (
        Numerics("float32", torch.float32, torch.float32, torch.float32, torch.float32),
        Numerics("precise", torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16),
        Numerics("int8", torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16, has_int8_experts=True),
        Numerics("bf16", torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.bfloat16),
    )
}
