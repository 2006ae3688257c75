"""The shipped weights on the training forward, with the used rows of the vocabulary only: for scores."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.mxfp4 import Mxfp4Tensor, dequantize
from model.tiny.asset import TinyAsset
from model.tiny.network import Body, Experts, Packed, TinyShape

UNWANTED = -1
STOP_IDS = (200002, 200012)


def shape_of(config: dict[str, Any]) -> TinyShape:
    """Return the sizes that a checkpoint's config.json gives."""
    return TinyShape(
        hidden=config["hidden_size"], intermediate=config["intermediate_size"], num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"], num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"], num_experts=config["num_local_experts"],
        experts_per_token=config["num_experts_per_tok"], window=config["sliding_window"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CompactModel:
    """The tiny model over row numbers: R used rows and row R for every other id."""

    body: Body
    ids: list[int]
    embedding: Tensor
    """[R + 1, H] f32."""
    head: Tensor
    """[R + 1, H] f32."""

    @classmethod
    def of(cls, asset: TinyAsset) -> "CompactModel":
        """Return the model that an asset holds, its weights as float32."""
        body = Body(shape_of(asset.config))
        body.load_state_dict({name: _parameter(asset.tensors, name) for name in body.state_dict()})
        return cls(body.eval(), asset.ids.tolist(), asset.embedding.float(), asset.head.float())

    def layer_experts(self, layer: int) -> Experts:
        """Return the experts of one layer."""
        experts = self.body.get_submodule(f"layers.{layer}.mlp")
        assert isinstance(experts, Experts)
        return experts

    @torch.no_grad()
    def hidden(self, packed: Packed) -> Tensor:
        """Return the last hidden rows [N, T, H]."""
        return self.body(functional.embedding(packed.ids, self.embedding), packed)[0]

    @torch.no_grad()
    def best_rows(self, hidden: Tensor) -> Tensor:
        """Return the row numbers [M] with the highest logits."""
        return (hidden @ self.head.T).argmax(-1)

    def reply(self, prompt_ids: list[int], max_tokens: int = 120) -> list[int]:
        """Return the token ids of the greedy continuation, up to and with a stop id."""
        places = {token: place for place, token in enumerate(self.ids)}
        rows = [places.get(token, len(self.ids)) for token in prompt_ids]
        reply: list[int] = []
        while len(reply) < max_tokens and (not reply or reply[-1] not in STOP_IDS):
            size = len(rows)
            packed = Packed(torch.tensor([rows]), torch.arange(size)[None], torch.zeros(1, size, dtype=torch.long))
            rows.append(int(self.best_rows(self.hidden(packed)[0, -1:])))
            reply.append(self.ids[rows[-1]] if rows[-1] < len(self.ids) else UNWANTED)
        return reply


def _parameter(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Return a parameter of the training network from the checkpoint's tensors."""
    path, _, last = name.rpartition(".")
    if last in {"gate_up_proj", "down_proj"}:
        blocks, scales = (tensors[f"model.{path}.experts.{last}_{part}"] for part in ("blocks", "scales"))
        return dequantize(Mxfp4Tensor(blocks, scales), torch.float32)
    middle = ".experts" if last in {"gate_up_proj_bias", "down_proj_bias"} else ""
    return tensors[f"model.{path}{middle}.{last}"].float()
