"""Writing a checkpoint in any of the three layouts from any source of weights, one layer in memory at a time."""

import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from model.checkpoint.bf16 import BF16
from model.checkpoint.layout import CheckpointFormat, FormatName, TensorPiece, tensor_pieces
from model.checkpoint.open import CONFIG_FILE, GENERATION_FILE, INDEX_FILE, SINGLE_FILE
from model.checkpoint.original import ORIGINAL
from model.checkpoint.packed import PACKED
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.safetensors_writer import SafetensorsWriter
from model.checkpoint.weight_chunks import WeightChunks
from model.checkpoint.weights import WeightSource
from model.config import ModelConfig
from model.config_json import write_original_config

FORMATS: dict[FormatName, CheckpointFormat] = {"packed": PACKED, "bf16": BF16, "original": ORIGINAL}
MAX_SHARD_BYTES = 5_000_000_000


def write_random_checkpoint(
    path: str | Path,
    config: ModelConfig,
    seed: int,
    layout: FormatName = "packed",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write weights made up from `seed`; the same seed is the same model in every layout."""
    return write_checkpoint(path, RandomWeights(config, seed), layout, max_shard_bytes)


def write_checkpoint(
    path: str | Path,
    source: WeightSource,
    layout: FormatName = "packed",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_bytes: Callable[[int], None] | None = None,
) -> Path:
    """Write the weights of `source` to the new directory `path`, which appears only when it is whole, and return it.

    Experts are quantised or dequantised as `layout` asks. `on_bytes` is told the bytes of each tensor once written.
    Raises FileExistsError if `path` holds anything, ValueError if the layout cannot say what `source` is.
    """
    target = Path(path)
    with _new_directory(target) as directory:
        checkpoint_format = FORMATS[layout]
        _write_documents(directory, source.config, checkpoint_format)
        shards = _shards(tensor_pieces(checkpoint_format.layout(source.config)), max_shard_bytes)
        names = _shard_names(len(shards), checkpoint_format)
        chunks = WeightChunks(source, checkpoint_format)
        for name, shard in zip(names, shards, strict=True):
            with SafetensorsWriter(directory / name, [piece.stored for piece in shard]) as writer:
                for piece in shard:
                    num_bytes = writer.write(chunks.of(piece))
                    if on_bytes:
                        on_bytes(num_bytes)
        if len(shards) > 1 and checkpoint_format is not ORIGINAL:
            _write_json(directory / INDEX_FILE, _index(names, shards))
    return target


@contextmanager
def _new_directory(target: Path) -> Generator[Path]:
    """Give a directory beside `target` that becomes it at the end, or vanishes on an error."""
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} exists and is not empty")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # after the renaming there is none


def _write_documents(directory: Path, config: ModelConfig, checkpoint_format: CheckpointFormat) -> None:
    is_original = checkpoint_format is ORIGINAL
    packed = checkpoint_format.are_experts_packed
    _write_json(directory / CONFIG_FILE, write_original_config(config) if is_original else config.to_json(packed))
    generation = {"eos_token_id": list(config.eos_token_ids), "pad_token_id": config.pad_token_id}
    _write_json(directory / GENERATION_FILE, generation)


def _write_json(file: Path, document: object) -> None:
    file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def _shards(pieces: Sequence[TensorPiece], max_shard_bytes: int) -> list[list[TensorPiece]]:
    """Fill shards in order; a tensor larger than the limit has a shard to itself."""
    shards: list[list[TensorPiece]] = [[]]
    shard_bytes = 0
    for piece in pieces:
        if shards[-1] and shard_bytes + piece.stored.num_bytes > max_shard_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(piece)
        shard_bytes += piece.stored.num_bytes
    return shards


def _shard_names(count: int, checkpoint_format: CheckpointFormat) -> list[str]:
    """Return names as published: Hugging Face's count from 0 to "of" count - 1, those of `original/` from 1."""
    if count == 1:
        return [SINGLE_FILE]
    if checkpoint_format is ORIGINAL:
        return [f"model--{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    return [f"model-{number:05d}-of-{count - 1:05d}.safetensors" for number in range(count)]


def _index(names: Sequence[str], shards: Sequence[Sequence[TensorPiece]]) -> dict[str, object]:
    weight_map = {piece.stored.name: name for name, shard in zip(names, shards, strict=True) for piece in shard}
    total = sum(piece.stored.num_bytes for shard in shards for piece in shard)
    return {"metadata": {"total_size": total}, "weight_map": weight_map}
