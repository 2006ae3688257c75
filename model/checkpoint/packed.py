"""Hugging Face's layout as published: experts stay MXFP4, in `_blocks` and `_scales`."""

import torch

from model.checkpoint.hugging_face import EXPERT_NAMES, expert_prefix, hugging_face_layout
from model.checkpoint.layout import CheckpointFormat, Layout, StoredTensor, packed_expert_shapes
from model.config import ModelConfig


def packed_layout(config: ModelConfig) -> Layout:
    """Return the layout of a model with `config`."""
    return hugging_face_layout(config, _expert_matrices)


def _expert_matrices(config: ModelConfig, layer: int) -> Layout:
    layout: Layout = {}
    for field, shape in packed_expert_shapes(config).items():
        matrix, kind = field.split("_")
        name = f"{expert_prefix(layer)}{EXPERT_NAMES[matrix]}_{kind}"
        layout[f"layers.{layer}.experts.{field}"] = (StoredTensor(name, shape, "expert_weights", torch.uint8),)
    return layout


PACKED = CheckpointFormat("packed", packed_layout, are_experts_packed=True)
