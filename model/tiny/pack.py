"""Packs a trained model into the file that ships: `python -m model.tiny.pack DIR/tiny.pt`."""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from model.mxfp4 import quantize
from model.tiny.asset import ASSET_NAME, COPIED_STEP, TinyAsset
from model.tiny.network import TinyShape
from model.tiny.tables import VOCABULARY
from model.tiny.trained import Trained, load

_PACKED = ("gate_up_proj", "down_proj")


def checkpoint_config(shape: TinyShape) -> dict[str, object]:
    """Return the config.json of a checkpoint of this shape, with the keys of the published ones."""
    layers = ["full_attention" if place % 2 else "sliding_attention" for place in range(shape.num_layers)]
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "experts_per_token": shape.experts_per_token,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initial_context_length": shape.initial_context,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "layer_types": layers,
        "max_position_embeddings": int(shape.initial_context * shape.factor),
        "model_type": "gpt_oss",
        "num_attention_heads": shape.num_heads,
        "num_experts_per_tok": shape.experts_per_token,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "num_local_experts": shape.num_experts,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": shape.epsilon,
        "rope_scaling": {
            "beta_fast": shape.beta_fast,
            "beta_slow": shape.beta_slow,
            "factor": shape.factor,
            "original_max_position_embeddings": shape.initial_context,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": shape.theta,
        "router_aux_loss_coef": 0.9,
        "sliding_window": shape.window,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }  # fmt: skip


def pack(trained: Trained, shape: TinyShape) -> TinyAsset:
    """Return the asset of a trained model: experts as MXFP4, copied rows on the grid of their codes, the rest bf16."""
    tensors: dict[str, Tensor] = {}
    for name, value in trained.body.items():
        tensors |= _expert_tensors(name, value)
    embedding, head = (_rounded(rows, trained.is_copied) for rows in (trained.embedding, trained.head))
    return TinyAsset(checkpoint_config(shape), trained.ids, trained.is_copied, embedding, head, tensors)


def _rounded(rows: Tensor, is_copied: Tensor) -> Tensor:
    """Return a table [R + 1, H] as bf16, its copied rows rounded to multiples of `COPIED_STEP`."""
    on_grid = (rows / COPIED_STEP).round().clamp(-127, 127) * COPIED_STEP
    return torch.where(functional.pad(is_copied, (0, 1))[:, None], on_grid, rows).to(torch.bfloat16)


def _expert_tensors(name: str, value: Tensor) -> dict[str, Tensor]:
    """Return the checkpoint's tensors for one parameter of the training network."""
    path, _, last = name.rpartition(".")
    if last in _PACKED:
        packed = quantize(value)
        path = f"model.{path}.experts.{last}"
        return {f"{path}_blocks": packed.blocks, f"{path}_scales": packed.scales}
    if last.startswith(_PACKED):
        path += ".experts"
    return {f"model.{path}.{last}": value.to(torch.bfloat16)}


def main() -> None:
    """Pack the trained model named on the command line into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path, help="the tiny.pt that the training wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / ASSET_NAME)
    arguments = parser.parse_args()
    content = pack(load(arguments.trained), TinyShape()).to_bytes()
    arguments.out.write_bytes(content)
    sys.stdout.write(f"{arguments.out}: {len(content):,} bytes\n")


if __name__ == "__main__":
    main()
