"""Whether two sources of weights are the same model, by every value that they give."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.weights import ExpertMatrix, WeightSource
from model.kernels.mxfp4_linear import Mxfp4Weight
from model.mxfp4 import Mxfp4Tensor, dequantize


def dense(matrix: ExpertMatrix) -> Tensor:
    """Return the values of a matrix as bf16."""
    assert not isinstance(matrix, Mxfp4Weight), "no file holds packed matrices"
    return dequantize(matrix, torch.bfloat16) if isinstance(matrix, Mxfp4Tensor) else matrix


def tensors_of(source: WeightSource) -> dict[str, Tensor]:
    """Return every weight of `source` by canonical name, experts one by one and dequantised."""
    groups: dict[str, Any] = {"embedding": source.embedding(), "head": source.head()}
    for layer in range(source.config.num_layers):
        groups[f"{layer}.attention"] = source.attention(layer)
        groups[f"{layer}.gate"] = source.gate(layer)
        for expert in range(source.config.num_experts):
            groups[f"{layer}.{expert}"] = source.expert(layer, expert)
    return {
        f"{name}.{field.name}": dense(getattr(group, field.name))
        for name, group in groups.items()
        for field in fields(group)
    }


def assert_same_model(one: WeightSource, other: WeightSource) -> None:
    """Fail unless configuration, dtypes and bits of all values are equal."""
    assert one.config == other.config
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name
