"""BlockType: the element types of GGUF tensors by number, with the sizes of their blocks; which of them we decode."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockType:
    """An element type: every `block_values` values along the last dimension take `block_bytes` bytes."""

    number: int
    name: str
    block_values: int = 1
    block_bytes: int = 1


F32 = BlockType(0, "F32", 1, 4)
F16 = BlockType(1, "F16", 1, 2)
BF16 = BlockType(30, "BF16", 1, 2)
Q8_0 = BlockType(8, "Q8_0", 32, 34)
"""An f16 scale and 32 signed bytes."""
MXFP4 = BlockType(39, "MXFP4", 32, 17)
"""A scale byte, then byte j with element j in its low nibble and element j + 16 in its high one."""
OLLAMA_MXFP4 = BlockType(4, "MXFP4 as Ollama first wrote it", 32, 17)
"""A scale byte, then byte j with elements 2j and 2j + 1, as in safetensors. llama.cpp has no type of this number."""

MXFP4_TYPES = frozenset({MXFP4, OLLAMA_MXFP4})
VALUE_TYPES = frozenset({F32, F16, BF16, Q8_0})
"""What dense weights may be held in; experts too, if they were dequantised."""

_NEVER_DECODED = (
    BlockType(2, "Q4_0", 32, 18),
    BlockType(3, "Q4_1", 32, 20),
    BlockType(6, "Q5_0", 32, 22),
    BlockType(7, "Q5_1", 32, 24),
    BlockType(10, "Q2_K", 256, 84),
    BlockType(11, "Q3_K", 256, 110),
    BlockType(12, "Q4_K", 256, 144),
    BlockType(13, "Q5_K", 256, 176),
    BlockType(14, "Q6_K", 256, 210),
    BlockType(20, "IQ4_NL", 32, 18),
    BlockType(21, "IQ3_S", 256, 110),
    BlockType(23, "IQ4_XS", 256, 136),
    BlockType(24, "I8", 1, 1),
    BlockType(26, "I32", 1, 4),
    BlockType(28, "F64", 1, 8),
)
BLOCK_TYPES = {each.number: each for each in (*VALUE_TYPES, *MXFP4_TYPES, *_NEVER_DECODED)}
"""By number: what we decode, and what other files hold, so that an error can say its name."""
