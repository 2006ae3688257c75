"""RandomWeights: weights of any configuration made up from a seed, each tensor on its own, with no file behind them.

The experts are MXFP4 from the start, so the model is the same in every layout. Magnitudes keep activations sane
through many layers; codes, scales, biases and sinks all vary, so that a mistake with any of them shows.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoint.weights import (
    AttentionWeights,
    EmbeddingWeights,
    ExpertWeights,
    GateWeights,
    HeadWeights,
)
from model.config import ModelConfig
from model.mxfp4 import BLOCK_BYTES, BLOCK_VALUES, SCALE_BIAS, Mxfp4Tensor

BIAS_STD = 0.05
_RANGE = 32767
_PIECE_VALUES = 1 << 22
_CODE_RMS = (sum(value * value for value in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)) / 8) ** 0.5


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """A `WeightSource`: equal seeds give equal bits on every machine, in whatever order tensors are asked for."""

    config: ModelConfig
    seed: int

    def embedding(self) -> EmbeddingWeights:
        """Return the embedding, each value about 1."""
        return EmbeddingWeights(self._uniform("embedding", (self.config.vocab_size, self.config.hidden_size), 1.0))

    def attention(self, layer: int) -> AttentionWeights:
        """Return the attention of `layer`."""
        config, name = self.config, f"layers.{layer}.attention."
        hidden, query_size = config.hidden_size, config.num_heads * config.head_dim
        return AttentionWeights(
            norm=self._norm(name + "norm"),
            qkv_weight=self._uniform(name + "qkv_weight", (config.qkv_size, hidden), hidden**-0.5),
            qkv_bias=self._uniform(name + "qkv_bias", (config.qkv_size,), BIAS_STD),
            out_weight=self._uniform(name + "out_weight", (hidden, query_size), query_size**-0.5),
            out_bias=self._uniform(name + "out_bias", (hidden,), BIAS_STD),
            sinks=self._uniform(name + "sinks", (config.num_heads,), 1.0),
        )

    def gate(self, layer: int) -> GateWeights:
        """Return the gate of `layer`."""
        config, name = self.config, f"layers.{layer}.gate."
        return GateWeights(
            norm=self._norm(name + "norm"),
            weight=self._uniform(name + "weight", (config.num_experts, config.hidden_size), config.hidden_size**-0.5),
            bias=self._uniform(name + "bias", (config.num_experts,), BIAS_STD),
        )

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Return one expert of `layer`."""
        name = f"layers.{layer}.experts.{expert}."
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        return ExpertWeights(
            mlp1=self._mxfp4(name + "mlp1", 2 * inner, hidden),
            mlp1_bias=self._uniform(name + "mlp1_bias", (2 * inner,), BIAS_STD),
            mlp2=self._mxfp4(name + "mlp2", hidden, inner),
            mlp2_bias=self._uniform(name + "mlp2_bias", (hidden,), BIAS_STD),
        )

    def release(self) -> None:
        """Do nothing: no memory is held."""

    def head(self) -> HeadWeights:
        """Return the last norm and the unembedding; logits have a standard deviation of about 2."""
        vocab, hidden = self.config.vocab_size, self.config.hidden_size
        return HeadWeights(
            self._norm("head.norm"), self._uniform("head.unembedding", (vocab, hidden), 2 * hidden**-0.5)
        )

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))

    def _uniform(self, name: str, shape: tuple[int, ...], std: float) -> Tensor:
        """Return bf16 values from integers, so that no machine's logarithm or cosine changes a bit."""
        generator, scale = self._generator(name), std * 3**0.5 / _RANGE
        values = torch.empty(shape, dtype=torch.bfloat16)
        for piece in values.view(-1).split(_PIECE_VALUES):  # so that a vocabulary of 1 GB takes no 4 GB on the way
            integers = torch.randint(-_RANGE, _RANGE + 1, piece.shape, generator=generator, dtype=torch.int16)
            piece.copy_(integers.to(torch.float32).mul_(scale))
        return values

    def _norm(self, name: str) -> Tensor:
        return self._uniform(name, (self.config.hidden_size,), 0.1) + 1

    def _mxfp4(self, name: str, rows: int, columns: int) -> Mxfp4Tensor:
        """Return uniform codes under three neighbouring scales, of a mean square of about 1 / columns."""
        generator = self._generator(name)
        power = round(math.log2(columns**-0.5 / _CODE_RMS))
        shape = (rows, columns // BLOCK_VALUES)
        blocks = torch.randint(0, 256, (*shape, BLOCK_BYTES), generator=generator, dtype=torch.uint8)
        low = SCALE_BIAS + power - 1
        return Mxfp4Tensor(blocks, torch.randint(low, low + 3, shape, generator=generator, dtype=torch.uint8))
