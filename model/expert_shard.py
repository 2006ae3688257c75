"""ExpertShard: the experts resident on one device, and what they answer.

Weights stay in MXFP4 as the checkpoint has them; up to a bound, their dequantised form is kept beside them. An
expert's answer is a pure function of its weights and the row (N2): the same wherever the shard lives.
"""

from dataclasses import fields
from typing import Literal

import torch
from torch import Tensor

from model.checkpoint.weights import ExpertWeights
from model.config import ModelConfig
from model.kernels.expert_matmul import expert_matmul, group_by_expert
from model.kernels.swiglu import swiglu
from model.moe import Finished, GateOutput
from model.mxfp4 import Mxfp4Tensor, dequantize
from model.numerics import Numerics

ExpertKey = tuple[int, int]
"""(layer, expert)."""
_Matrix = Literal["mlp1", "mlp2"]


class ExpertShard:
    """The experts that live on one device. Satisfies `model.moe.Experts` when it holds them all."""

    def __init__(self, config: ModelConfig, numerics: Numerics, device: str, dequantized_bytes: int) -> None:
        """Start empty; keep at most `dequantized_bytes` of dequantised weights."""
        self._config = config
        self._numerics = numerics
        self._device = device
        self._weights: dict[ExpertKey, ExpertWeights] = {}
        self._dequantized: dict[tuple[ExpertKey, _Matrix], Tensor] = {}
        self._free_bytes = dequantized_bytes

    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        """Make an expert resident; putting it again replaces it."""
        self.drop(layer, expert)
        self._weights[layer, expert] = ExpertWeights(
            **{field.name: getattr(weights, field.name).to(self._device) for field in fields(weights)}
        )

    def drop(self, layer: int, expert: int) -> None:
        """Forget an expert; dropping an absent one does nothing."""
        self._weights.pop((layer, expert), None)
        for matrix in ("mlp1", "mlp2"):
            dense = self._dequantized.pop(((layer, expert), matrix), None)
            self._free_bytes += 0 if dense is None else dense.nbytes

    def has(self, layer: int, expert: int) -> bool:
        """Say whether the expert is resident."""
        return (layer, expert) in self._weights

    def resident(self) -> frozenset[ExpertKey]:
        """Return the resident experts as (layer, expert)."""
        return frozenset(self._weights)

    def weight_bytes(self) -> int:
        """Return the bytes of the resident weights, dequantised copies not counted."""
        return sum(
            _num_bytes(getattr(weights, field.name)) for weights in self._weights.values() for field in fields(weights)
        )

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
        config = self._config
        groups = group_by_expert(expert_ids)
        padded = rows.new_zeros((groups.num_rows, rows.shape[1]), dtype=torch.float32)
        padded[groups.slots] = rows[row_ids].float()
        first = expert_matmul(padded, groups, lambda expert: self._first_matmul(layer, expert))
        inner = swiglu(first, config.swiglu_limit, config.swiglu_alpha)
        outputs = expert_matmul(inner, groups, lambda expert: self._second_matmul(layer, expert))
        return outputs[groups.slots].to(self._numerics.expert_output)

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput) -> Finished:
        """Return the outputs of all chosen experts at once; every expert of the layer must be resident."""
        num_tokens, num_chosen = gate.expert_ids.shape
        row_ids = torch.arange(num_tokens, device=hidden.device).repeat_interleave(num_chosen)
        outputs = self.forward(layer, hidden, row_ids, gate.expert_ids.reshape(-1))
        return Finished(outputs.view(num_tokens, num_chosen, -1))

    def _first_matmul(self, layer: int, expert: int) -> tuple[Tensor, Tensor]:
        return self._dense((layer, expert), "mlp1"), self._weights[layer, expert].mlp1_bias

    def _second_matmul(self, layer: int, expert: int) -> tuple[Tensor, Tensor]:
        return self._dense((layer, expert), "mlp2"), self._weights[layer, expert].mlp2_bias

    def _dense(self, key: ExpertKey, matrix: _Matrix) -> Tensor:
        found = self._dequantized.get((key, matrix))
        if found is not None:
            return found
        weight = getattr(self._weights[key], matrix)
        dense = dequantize(weight, torch.float32) if isinstance(weight, Mxfp4Tensor) else weight.float()
        if dense.nbytes <= self._free_bytes:
            self._dequantized[key, matrix] = dense
            self._free_bytes -= dense.nbytes
        return dense


def _num_bytes(weight: Mxfp4Tensor | Tensor) -> int:
    return weight.num_bytes if isinstance(weight, Mxfp4Tensor) else weight.nbytes
