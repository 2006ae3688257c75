"""The table of dtypes per numerics mode (N0), and nothing that computes.

A mode fixes where values are rounded. The local path rounds exactly where a wire would, so that moving an
expert to another process changes no bit.
"""

from dataclasses import dataclass

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

    @classmethod
    def of(cls, mode: str) -> "Numerics":
        """Return the row of the table for `mode`; raises ValueError naming the known modes."""
        if mode not in MODES:
            raise ValueError(f"numerics mode {mode!r} is unknown; known: {', '.join(MODES)}")
        return MODES[mode]


MODES: dict[str, Numerics] = {
    numerics.mode: numerics
    for numerics in (
        Numerics("float32", torch.float32, torch.float32, torch.float32, torch.float32),
        Numerics("precise", torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16),
        Numerics("bf16", torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.bfloat16),
    )
}
