"""The tiny checkpoint as it ships: one compact file in the package, expanded once into the user's cache.

The file is a safetensors file under LZMA. It holds every tensor of the checkpoint as it is, except the two vocabulary
tables: of those the used rows and one row that all other ids share. Rows that are only copied lie on a coarse grid and
take a byte a value; the bytes of the others are split into two planes, which compress better. Expanded, it is a
checkpoint in the layout of the published ones, and nothing that reads it needs to know.
"""

import hashlib
import json
import lzma
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load, save, save_file
from torch import Tensor
from torch.nn import functional

ASSET_NAME = "assets/tiny.safetensors.xz"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MANIFEST = "expanded.json"
COPIED_STEP = 1 / 16
"""Copied rows hold multiples of it, at most 127: exact in bf16."""
GENERATION_CONFIG = {
    "bos_token_id": 199998,
    "do_sample": True,
    "eos_token_id": [200002, 199999, 200012],
    "pad_token_id": 199999,
    "transformers_version": "4.55.0.dev0",
}


@dataclass(frozen=True, slots=True)
class TinyAsset:
    """The content of the shipped file."""

    config: dict[str, object]
    """The checkpoint's config.json."""
    ids: Tensor
    """[R] i32: the token ids that have rows of their own, ascending."""
    is_copied: Tensor
    """[R] bool: the rows whose values are multiples of `COPIED_STEP`."""
    embedding: Tensor
    """[R + 1, H] bf16; the last row is every other id's."""
    head: Tensor
    """[R + 1, H] bf16."""
    tensors: dict[str, Tensor]
    """Everything else, by its name in the checkpoint."""

    def to_bytes(self) -> bytes:
        """Return the compressed file."""
        tables = _split("embedding", self.embedding, self.is_copied) | _split("head", self.head, self.is_copied)
        rows = {"ids": self.ids, "is_copied": self.is_copied.to(torch.uint8)}
        content = save(self.tensors | tables | rows, {"config": json.dumps(self.config)})
        return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def read_asset(content: bytes) -> TinyAsset:
    """Return what a file made by `TinyAsset.to_bytes` holds."""
    raw = lzma.decompress(content)
    tensors = load(raw)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    config = json.loads(header["__metadata__"]["config"])
    ids, is_copied = tensors.pop("ids"), tensors.pop("is_copied").bool()
    embedding, head = (_joined(name, tensors, is_copied) for name in ("embedding", "head"))
    return TinyAsset(config, ids, is_copied, embedding, head, tensors)


def shipped_bytes() -> bytes:
    """Return the compact file that is part of the package."""
    return files("model.tiny").joinpath(ASSET_NAME).read_bytes()


def ensure_tiny_checkpoint(cache_dir: Path) -> Path:
    """Return the folder of the expanded tiny checkpoint under `cache_dir`, made there if it is missing or damaged.

    Safe when several processes call it at once: each expands into a folder of its own, and the first to rename it
    wins. Raises OSError when the folder cannot be written.
    """
    content = shipped_bytes()
    digest = hashlib.sha256(content).hexdigest()
    target = cache_dir / f"tiny-{digest[:16]}"
    if _is_whole(target):
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tiny-", dir=cache_dir))
    try:
        fresh = scratch / "fresh"
        _expand(read_asset(content), fresh)
        _install(fresh, target, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def full_table(rows: Tensor, ids: Tensor, vocabulary: int) -> Tensor:
    """Return the table [vocabulary, H] in which id `ids[i]` has `rows[i]` and every other id the last row."""
    table = rows[-1].repeat(vocabulary, 1)
    table[ids.long()] = rows[:-1]
    return table


def _expand(asset: TinyAsset, folder: Path) -> None:
    """Write the standard checkpoint into `folder`, and last the manifest with the digests of its files."""
    folder.mkdir()
    vocabulary = asset.config["vocab_size"]
    assert isinstance(vocabulary, int), f"vocab_size is {vocabulary!r}"
    tables = {EMBEDDING: asset.embedding, HEAD: asset.head}
    tensors = asset.tensors | {name: full_table(rows, asset.ids, vocabulary) for name, rows in tables.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for name, document in (("config.json", asset.config), ("generation_config.json", GENERATION_CONFIG)):
        (folder / name).write_text(json.dumps(document, indent=2) + "\n")
    manifest = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _install(fresh: Path, target: Path, scratch: Path) -> None:
    """Rename `fresh` to `target`; what lies there damaged goes into `scratch`, what another process put there stays."""
    for attempt in range(10):
        try:
            os.rename(fresh, target)
            return
        except OSError:
            if _is_whole(target):
                return
            if not target.exists():
                raise
        try:
            os.rename(target, scratch / f"damaged-{attempt}")
        except FileNotFoundError:
            continue  # Another process has taken the damaged folder away.
    raise OSError(f"{target} is damaged and cannot be replaced; remove it and start again")


def _is_whole(folder: Path) -> bool:
    """Return whether the folder's files are those that its manifest names, byte for byte."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        names = {"model.safetensors", "config.json", "generation_config.json"}
        return set(manifest) == names and all(_digest(folder / name) == value for name, value in manifest.items())
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(name: str, table: Tensor, is_copied: Tensor) -> dict[str, Tensor]:
    """Return a bf16 table [R + 1, H] as high and low bytes of its own rows and codes of its copied ones, by column."""
    assert table.dtype == torch.bfloat16, f"{name} is {table.dtype}"
    copied = functional.pad(is_copied, (0, 1))
    codes = (table[copied].float() / COPIED_STEP).to(torch.int8)
    assert torch.equal(codes.float() * COPIED_STEP, table[copied].float()), f"copied rows of {name} are off the grid"
    both = table[~copied].T.contiguous().view(torch.uint8).unflatten(-1, (-1, 2))
    parts = {"low": both[..., 0], "high": both[..., 1], "codes": codes.T}
    return {f"{name}.{part}": value.contiguous() for part, value in parts.items()}


def _joined(name: str, tensors: dict[str, Tensor], is_copied: Tensor) -> Tensor:
    """Return the bf16 table [R + 1, H] from its parts, which leave `tensors`."""
    low, high, codes = (tensors.pop(f"{name}.{part}") for part in ("low", "high", "codes"))
    own = torch.stack((low, high), dim=-1).flatten(-2).view(torch.bfloat16).T
    copied = functional.pad(is_copied, (0, 1))
    table = torch.empty(len(copied), len(low), dtype=torch.bfloat16)
    table[copied] = (codes.T.float() * COPIED_STEP).to(torch.bfloat16)
    table[~copied] = own
    return table
