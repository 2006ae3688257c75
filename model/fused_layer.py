"""A decoder layer up to its experts in one native call, with the bits of the same kernels called one by one.

A decode step has few rows: what lies between its kernels, Python and the waking of threads, would cost as much as a
tenth of it. `DecoderLayer.before_experts` is the same in single calls, and what runs where this is not possible.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import Attention, StepTensors
from model.config import ModelConfig
from model.dense_matrix import DenseMatrix
from model.kernels.linear import LinearWeight
from model.kernels.native_library import native_library, required_library
from model.kernels.q8_linear import Q8Weight
from model.kernels.threads import num_threads
from model.kv_cache import KVCache
from model.moe import GateOutput, TopKGate
from model.numerics import Numerics

_KINDS = {torch.float32: 0, torch.bfloat16: 1}
_Q8_KIND = 2
_FEATURES = 8
"""Output features must be a multiple of it: packed matrices are padded to it, and their padding would be in the way."""


_Fields = list[tuple[str, type[ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float]]]


def _fields(pointers: str, integers: str, floats: str = "") -> _Fields:
    kinds = (pointers, ctypes.c_void_p), (integers, ctypes.c_int64), (floats, ctypes.c_float)
    return [(name, kind) for names, kind in kinds for name in names.split()]


class _LayerWeights(ctypes.Structure):
    """The struct of that name in `before_experts.cpp`."""

    _fields_ = _fields(
        "input_norm qkv_bias sinks out_bias gate_norm gate_bias qkv out gate",
        "qkv_kind out_kind gate_kind kv_kind hidden_kind hidden heads kv_heads head_dim experts chosen window",
        "eps scale",
    )


class _StepRows(ctypes.Structure):
    """The struct of that name in `before_experts.cpp`."""

    _fields_ = _fields("cos sin slots positions owners table", "rows table_width block_tokens split")


@dataclass(frozen=True, slots=True)
class NativeStep:
    """What the layers of one kind share in a step, as the kernel takes it."""

    struct: ctypes.Structure
    kept: tuple[Tensor, ...]
    """The tensors that the struct points to."""

    @classmethod
    def of(cls, step: StepTensors, kind: str) -> "NativeStep":
        """Return the part of `step` for layers of `kind`."""
        rows, block_tokens = step.plans[kind].rows, step.plans[kind].shape.block_tokens
        kept = step.cos.contiguous(), step.sin.contiguous(), step.slots[kind], rows.positions, rows.owners, rows.table
        sizes = len(rows.positions), rows.table.shape[1], block_tokens, rows.split
        return cls(_StepRows(*(each.data_ptr() for each in kept), *sizes), kept)


class FusedLayer:
    """One layer's weights as the kernel takes them."""

    def __init__(
        self, config: ModelConfig, attention: Attention, gate: TopKGate, gate_norm: Tensor, numerics: Numerics
    ) -> None:
        """Hold the matrices where `attention` and `gate` have them, everything else in f32."""
        self.config = config
        self.numerics = numerics
        self._kind = attention.kind
        self._matrices = attention.qkv[0], attention.out[0], gate.weight
        vectors = attention.norm, attention.qkv[1], attention.sinks, attention.out[1], gate_norm, gate.bias
        self._vectors = tuple(vector.float().contiguous() for vector in vectors)
        self._structs: dict[torch.dtype, _LayerWeights] = {}
        """By the dtype of keys and values."""

    def addresses(self, step: StepTensors, kv_cache: KVCache, layer: int) -> tuple[int, int, int, int]:
        """Return where the layer's weights, its part of the step, its keys and its values lie; they are f32 or bf16."""
        keys, values = kv_cache.layer(layer)
        assert isinstance(keys, Tensor), "the kernel stores keys unquantised"
        assert isinstance(values, Tensor), "the kernel stores values unquantised"
        native = step.native.get(self._kind)
        if native is None:
            native = step.native[self._kind] = NativeStep.of(step, self._kind)
        weights = self._struct(kv_cache.dtype)
        return ctypes.addressof(weights), ctypes.addressof(native.struct), keys.data_ptr(), values.data_ptr()

    def before_experts(
        self, x: Tensor, step: StepTensors, kv_cache: KVCache, layer: int
    ) -> tuple[Tensor, Tensor, GateOutput]:
        """Return the residual [T, H] f32, the experts' input [T, H] in its dtype, and the gate's choice.

        x [T, H] f32; keys and values go into `layer` of the cache.
        """
        weights, rows, keys, values = self.addresses(step, kv_cache, layer)
        x = x.contiguous()
        residual, hidden = torch.empty_like(x), torch.empty(x.shape, dtype=self.numerics.expert_input)
        ids = torch.empty((len(x), self.config.experts_per_token), dtype=torch.int64)
        gate_weights = torch.empty(ids.shape, dtype=torch.float32)
        outputs = (each.data_ptr() for each in (residual, hidden, ids, gate_weights))
        required_library().library.em_before_experts(
            *(ctypes.c_void_p(address) for address in (weights, rows, x.data_ptr(), keys, values, *outputs)),
            ctypes.c_int(num_threads()),
        )
        return residual, hidden, GateOutput(ids, gate_weights)

    def _struct(self, kv_dtype: torch.dtype) -> _LayerWeights:
        found = self._structs.get(kv_dtype)
        if found is not None:
            return found
        config = self.config
        window = config.sliding_window if self._kind == "sliding" else 0
        self._structs[kv_dtype] = struct = _LayerWeights(
            *(vector.data_ptr() for vector in self._vectors),
            *(_values(matrix).data_ptr() for matrix in self._matrices),
            *(_kind(matrix) for matrix in self._matrices),
            *(_KINDS[dtype] for dtype in (kv_dtype, self.numerics.expert_input)),
            *(config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim),
            *(config.num_experts, config.experts_per_token, window),
            *(config.norm_eps, config.head_dim**-0.5),
        )
        return struct


def fused_layer(
    config: ModelConfig, attention: Attention, gate: TopKGate, gate_norm: Tensor, numerics: Numerics
) -> FusedLayer | None:
    """Return the layer for one call of a native kernel, or None where there is none for it.

    There is none for the torch twins, for a residual or a cache in other dtypes than the kernel's, nor for sizes
    that are no multiple of its lanes.
    """
    matrices = attention.qkv[0], attention.out[0], gate.weight
    if native_library() is None or not all(matrix.is_packed for matrix in matrices):
        return None
    is_known = numerics.residual == torch.float32 and {numerics.kv, numerics.expert_input} <= set(_KINDS)
    if not is_known or any(size % _FEATURES for size in (config.head_dim, config.hidden_size, config.num_experts)):
        return None
    return FusedLayer(config, attention, gate, gate_norm, numerics)


def _values(matrix: DenseMatrix) -> Tensor:
    return matrix.blocks if isinstance(matrix, Q8Weight) else matrix.values


def _kind(matrix: DenseMatrix) -> int:
    return _KINDS[matrix.values.dtype] if isinstance(matrix, LinearWeight) else _Q8_KIND
