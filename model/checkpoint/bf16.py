"""Hugging Face's layout with experts dequantised to bf16, as fine-tunes save it: matrices stand [E, in, out]."""

from model.checkpoint.hugging_face import EXPERT_NAMES, expert_prefix, hugging_face_layout
from model.checkpoint.layout import CheckpointFormat, Layout, StoredTensor
from model.config import ModelConfig


def bf16_layout(config: ModelConfig) -> Layout:
    """Return the layout of a model with `config`."""
    return hugging_face_layout(config, _expert_matrices)


def _expert_matrices(config: ModelConfig, layer: int) -> Layout:
    experts, hidden, inner = config.num_experts, config.hidden_size, config.intermediate_size
    shapes = {"mlp1": (experts, hidden, 2 * inner), "mlp2": (experts, inner, hidden)}
    return {
        f"layers.{layer}.experts.{matrix}_weight": (
            StoredTensor(expert_prefix(layer) + EXPERT_NAMES[matrix], shape, "expert_weights"),
        )
        for matrix, shape in shapes.items()
    }


BF16 = CheckpointFormat("bf16", bf16_layout, are_experts_packed=False, are_experts_transposed=True)
