"""Writing a model as a GGUF file that llama.cpp reads, from any source of weights, one layer in memory at a time."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from torch import Tensor

from model.checkpoint.gguf.block_types import BF16, F32, MXFP4, Q8_0, BlockType
from model.checkpoint.gguf.blocks import encode, pack_mxfp4
from model.checkpoint.gguf.layout import gguf_layout
from model.checkpoint.gguf.metadata import write_gguf_config
from model.checkpoint.gguf.vocabulary import vocabulary_metadata
from model.checkpoint.gguf.writer import GgufPlan, GgufWriter, WritableValue
from model.checkpoint.layout import StoredTensor, TensorPiece, tensor_pieces
from model.checkpoint.packed import PACKED
from model.checkpoint.weight_chunks import WeightChunks
from model.checkpoint.weights import ExpertWeights, WeightSource
from model.config import ModelConfig
from model.mxfp4 import Mxfp4Tensor

DenseType: TypeAlias = Literal["bf16", "q8_0"]
DENSE_TYPES: dict[DenseType, BlockType] = {"bf16": BF16, "q8_0": Q8_0}
_MOSTLY_MXFP4 = 38
"""llama.cpp's file type of such models; it only says it to people."""
_QUANTIZATION_VERSION = 2
_ROWS_AT_ONCE = 4096
_ROWS_OF_MLP1 = {"gate": slice(0, None, 2), "up": slice(1, None, 2)}


def plan_gguf(config: ModelConfig, dense: DenseType = "bf16") -> GgufPlan:
    """Return the plan of a file for a model of `config`; raises ConfigError for what GGUF cannot say."""
    metadata: dict[str, WritableValue] = {
        "general.architecture": "gpt-oss",
        "general.type": "model",
        "general.name": f"gpt-oss of {config.num_layers} layers and {config.num_experts} experts",
        "general.file_type": _MOSTLY_MXFP4,
        "general.quantization_version": _QUANTIZATION_VERSION,
    }
    metadata |= write_gguf_config(config)
    metadata |= vocabulary_metadata(config.vocab_size)
    return GgufPlan.of(metadata, _tensors(config, dense))


def gguf_bytes(config: ModelConfig, dense: DenseType = "bf16") -> int:
    """Return the bytes of the tensors in such a file: all of it but the header, without making one."""
    return sum(tensor.num_bytes for tensor in GgufPlan.of({}, _tensors(config, dense)).tensors)


def write_gguf(
    file: str | Path,
    source: WeightSource,
    dense: DenseType = "bf16",
    on_bytes: Callable[[int], None] | None = None,
    replace: bool = False,
) -> Path:
    """Write the weights of `source` to `file`, which appears only when it is whole, and return it.

    Experts are MXFP4, quantised if `source` has them in bf16; matrices beside them are `dense`, and vectors and the
    gate f32, as llama.cpp asks. `on_bytes` is told the bytes of each tensor once written. Raises FileExistsError
    unless `replace`, ConfigError for what GGUF cannot say of the model.
    """
    target = Path(file)
    if target.exists() and not replace:
        raise FileExistsError(f"{target} exists")
    plan = plan_gguf(source.config, dense)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as directory:
        partial = Path(directory) / target.name
        _write(partial, plan, source, on_bytes)
        partial.replace(target)
    return target


def _write(file: Path, plan: GgufPlan, source: WeightSource, on_bytes: Callable[[int], None] | None) -> None:
    chunks = WeightChunks(source, PACKED)
    with GgufWriter(file, plan) as writer:
        for piece, tensor in zip(tensor_pieces(gguf_layout(source.config)), plan.tensors, strict=True):
            num_bytes = writer.write(_values(chunks, piece, tensor.block_type))
            if on_bytes:
                on_bytes(num_bytes)


def _tensors(config: ModelConfig, dense: DenseType) -> list[tuple[str, BlockType, tuple[int, ...]]]:
    stored = [piece.stored for piece in tensor_pieces(gguf_layout(config))]
    return [(one.name, _block_type(one, dense), one.shape) for one in stored]


def _block_type(stored: StoredTensor, dense: DenseType) -> BlockType:
    if stored.part == "expert_weights":
        return MXFP4
    is_vector = len(stored.shape) == 1 or stored.part in {"expert_biases", "gate"}
    return F32 if is_vector else DENSE_TYPES[dense]


def _values(chunks: WeightChunks, piece: TensorPiece, block_type: BlockType) -> Iterator[Tensor]:
    scope, _, field = piece.canonical.rpartition(".")
    if scope.endswith(".experts"):
        return (_expert_bytes(weights, field) for weights in chunks.experts(scope))
    dense = chunks.of(piece)
    return (encode(rows, block_type) for values in dense for rows in values.split(_ROWS_AT_ONCE))


def _expert_bytes(weights: ExpertWeights, field: str) -> Tensor:
    """Return what the file holds of one expert under `field`: gate_weight, gate_bias, up_weight, and so on."""
    matrix, _, kind = field.partition("_")
    rows = _ROWS_OF_MLP1.get(matrix, slice(None))
    name = "mlp1" if matrix in _ROWS_OF_MLP1 else matrix
    if kind == "bias":
        return encode(getattr(weights, f"{name}_bias")[rows], F32)
    packed = getattr(weights, name)
    assert isinstance(packed, Mxfp4Tensor), "a matrix was not converted"
    return pack_mxfp4(Mxfp4Tensor(packed.blocks[rows], packed.scales[rows]))
