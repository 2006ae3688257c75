"""ExpertShard: the experts resident on one device, and what they answer.

Weights stay in MXFP4. The native kernels read them so; for the torch twins, and for the `float32` mode, whose
activations must not be rounded, they are dequantised when used and, up to a bound, kept so (not in `int8`: there the
twin reads MXFP4 too, and has the native kernel's bits). An expert's answer is a
pure function of its weights and the row (N2): the same wherever the shard lives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

from model.checkpoint.weights import ExpertMatrix, ExpertWeights
from model.config import ModelConfig
from model.expert_groups import ExpertGroups, group_by_expert
from model.kernels.expert_mlp import ExpertTable, MlpWeights, expert_mlp
from model.kernels.linear import LinearWeight, linear
from model.kernels.mxfp4_experts import mxfp4_experts
from model.kernels.mxfp4_linear import Mxfp4Weight, mxfp4_linear
from model.kernels.mxfp4_linear_int8 import mxfp4_linear_int8
from model.kernels.native_library import native_library
from model.kernels.swiglu import swiglu
from model.moe import Finished, GateOutput
from model.mxfp4 import Mxfp4Tensor, dequantize
from model.numerics import Numerics

ExpertKey = tuple[int, int]
"""(layer, expert)."""
_Name = Literal["mlp1", "mlp2"]
_Resident: TypeAlias = LinearWeight | Mxfp4Weight | Mxfp4Tensor
"""A matrix as it lies in memory; an Mxfp4Tensor is dequantised before use."""


@dataclass(frozen=True, slots=True)
class _Expert:
    matrices: dict[_Name, _Resident]
    biases: dict[_Name, Tensor]

    @property
    def num_bytes(self) -> int:
        sizes = [each.num_bytes if isinstance(each, Mxfp4Tensor) else each.nbytes for each in self.matrices.values()]
        return sum(sizes) + sum(bias.nbytes for bias in self.biases.values())


class ExpertShard:
    """The experts that live on one device. Satisfies `model.moe.Experts` when it holds them all."""

    def __init__(self, config: ModelConfig, numerics: Numerics, device: str, dequantized_bytes: int) -> None:
        """Start empty; keep at most `dequantized_bytes` of dequantised weights."""
        self._config = config
        self._numerics = numerics
        self._device = device
        self._experts: dict[ExpertKey, _Expert] = {}
        self._dequantized: dict[tuple[ExpertKey, _Name], LinearWeight] = {}
        self._free_bytes = dequantized_bytes
        self._reads_mxfp4 = device == "cpu" and numerics.mode != "float32" and native_library() is not None
        self._tables = [ExpertTable(config.num_experts, {}) for _ in range(config.num_layers)]
        """Of the experts that the native kernels read, for one call with all of them."""
        self._unpacked: set[ExpertKey] = set()

    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        """Make an expert resident; putting it again replaces it."""
        self.drop(layer, expert)
        mlp1, mlp2 = self._resident(weights.mlp1), self._resident(weights.mlp2)
        biases = weights.mlp1_bias.to(self._device), weights.mlp2_bias.to(self._device)
        self._experts[layer, expert] = _Expert({"mlp1": mlp1, "mlp2": mlp2}, {"mlp1": biases[0], "mlp2": biases[1]})
        if isinstance(mlp1, Mxfp4Weight) and isinstance(mlp2, Mxfp4Weight):
            mlp1_bias, mlp2_bias = (bias.float().contiguous() for bias in biases)
            packed = MlpWeights(mlp1, mlp1_bias, mlp2, mlp2_bias)
            self._tables[layer] = self._tables[layer].with_expert(expert, packed)
        else:
            self._unpacked.add((layer, expert))

    def drop(self, layer: int, expert: int) -> None:
        """Forget an expert; dropping an absent one does nothing."""
        if self._experts.pop((layer, expert), None) is None:
            return
        self._tables[layer] = self._tables[layer].with_expert(expert, None)
        self._unpacked.discard((layer, expert))
        for name in ("mlp1", "mlp2"):
            dense = self._dequantized.pop(((layer, expert), name), None)
            self._free_bytes += 0 if dense is None else dense.nbytes

    def packed_tables(self) -> Sequence[ExpertTable] | None:
        """Return each layer's experts as the native kernels read them, or None if they don't read all that are here."""
        return None if self._unpacked or not self._reads_mxfp4 else list(self._tables)

    def has(self, layer: int, expert: int) -> bool:
        """Say whether the expert is resident."""
        return (layer, expert) in self._experts

    def resident(self) -> frozenset[ExpertKey]:
        """Return the resident experts as (layer, expert)."""
        return frozenset(self._experts)

    def weight_bytes(self) -> int:
        """Return the bytes of the resident weights, dequantised copies not counted."""
        return sum(expert.num_bytes for expert in self._experts.values())

    @property
    def free_dequantized_bytes(self) -> int:
        """Return the bytes still free for keeping dequantised weights."""
        return self._free_bytes

    def forward(self, layer: int, rows: Tensor, row_ids: Tensor, expert_ids: Tensor) -> Tensor:
        """Return [P, H] in the expert output dtype: pair p is expert `expert_ids[p]` on rows[row_ids[p]].

        rows [R, H] in the expert input dtype; row_ids and expert_ids [P] int64. Every expert named is resident.
        """
        if expert_ids.numel() == 0:
            return rows.new_zeros((0, rows.shape[1]), dtype=self._numerics.expert_output)
        if rows.dtype == torch.bfloat16 and self._reads_mxfp4 and not self._unpacked:
            limits = self._config.swiglu_limit, self._config.swiglu_alpha
            is_int8 = self._numerics.has_int8_experts
            return expert_mlp(rows, row_ids, expert_ids, self._tables[layer], limits, is_int8)
        return self.forward_by_expert(layer, rows[row_ids], expert_ids)

    def forward_by_expert(self, layer: int, rows: Tensor, expert_ids: Tensor) -> Tensor:
        """Return what `forward` does for a row [P, H] of each pair, with the same bits, kernel by kernel."""
        groups = group_by_expert(expert_ids)
        by_expert = rows[groups.order].float()
        first = self._multiply(layer, "mlp1", by_expert, groups)
        inner = swiglu(first, self._config.swiglu_limit, self._config.swiglu_alpha)
        second = self._multiply(layer, "mlp2", inner, groups).to(self._numerics.expert_output)
        outputs = torch.empty_like(second)
        outputs[groups.order] = second
        return outputs

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput) -> Finished:
        """Return the outputs of all chosen experts at once; every expert of the layer must be resident."""
        num_tokens, num_chosen = gate.expert_ids.shape
        row_ids = torch.arange(num_tokens, device=hidden.device).repeat_interleave(num_chosen)
        outputs = self.forward(layer, hidden, row_ids, gate.expert_ids.reshape(-1))
        return Finished(outputs.view(num_tokens, num_chosen, -1))

    def _multiply(self, layer: int, name: _Name, by_expert: Tensor, groups: ExpertGroups) -> Tensor:
        """Return each expert's rows times its matrix, plus its bias, in the order of `groups`."""
        experts = [self._experts[layer, expert] for expert in groups.experts]
        weights = [expert.matrices[name] for expert in experts]
        if self._reads_mxfp4 and all(isinstance(weight, Mxfp4Weight) for weight in weights):
            packed = cast("list[Mxfp4Weight]", weights)
            biases = [expert.biases[name].float() for expert in experts]
            return mxfp4_experts(by_expert, packed, biases, groups.bounds, self._numerics.has_int8_experts)
        parts: list[Tensor] = []
        for expert, places in groups.spans():
            key = layer, expert
            multiply = self._linear(key, name)
            parts.append(multiply(by_expert[places], self._experts[key].biases[name]))
        return torch.cat(parts)

    def _linear(self, key: ExpertKey, name: _Name) -> Callable[[Tensor, Tensor], Tensor]:
        matrix = self._experts[key].matrices[name]
        if self._numerics.has_int8_experts and not isinstance(matrix, LinearWeight):
            return lambda rows, bias: mxfp4_linear_int8(rows, matrix, bias)
        if isinstance(matrix, Mxfp4Weight):  # beside one that is not
            return lambda rows, bias: mxfp4_linear(rows, matrix, bias)
        dense = matrix if isinstance(matrix, LinearWeight) else self._dequantize(key, name, matrix)
        return lambda rows, bias: linear(rows, dense, bias)

    def _resident(self, matrix: ExpertMatrix) -> _Resident:
        if isinstance(matrix, Mxfp4Weight):
            assert self._reads_mxfp4, "only the native kernels read packed experts"
            return matrix
        if isinstance(matrix, Mxfp4Tensor):
            return Mxfp4Weight.of(matrix) if self._reads_mxfp4 else matrix.to(self._device)
        return LinearWeight.of(matrix.to(self._device))

    def _dequantize(self, key: ExpertKey, name: _Name, matrix: Mxfp4Tensor) -> LinearWeight:
        found = self._dequantized.get((key, name))
        if found is not None:
            return found
        dense = LinearWeight.of(dequantize(matrix, torch.float32))
        if dense.nbytes <= self._free_bytes:
            self._dequantized[key, name] = dense
            self._free_bytes -= dense.nbytes
        return dense
