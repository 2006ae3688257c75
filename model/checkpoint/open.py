"""Finding a checkpoint at a path: its configuration, its files, its format; and whether all of it is there.

Only headers are read. `survey_checkpoint` lists every problem, `open_checkpoint` raises the first.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint.bf16 import BF16
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.gguf.checkpoint import gguf_in, survey_gguf
from model.checkpoint.gguf.header import is_gguf
from model.checkpoint.json_file import read_json_object
from model.checkpoint.layout import CheckpointFormat
from model.checkpoint.original import ORIGINAL
from model.checkpoint.packed import PACKED
from model.checkpoint.tensor_store import TensorStore
from model.config import ModelConfig
from model.errors import CheckpointDamaged, CheckpointError, CheckpointMissing, ConfigError

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ORIGINAL_DIRECTORY = "original"

_NUMBERED = re.compile(r"(?P<stem>.*-)(?P<number>\d+)-of-(?P<count>\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class Survey:
    """A checkpoint as far as it could be opened, and everything that is wrong with it."""

    checkpoint: Checkpoint
    problems: tuple[CheckpointError, ...]
    declared_bytes: int | None
    """What the index says the tensors take together, if there is an index that says so."""


@dataclass(frozen=True, slots=True)
class Index:
    """model.safetensors.index.json: which file holds which tensor."""

    path: Path
    file_names: Mapping[str, str]
    """By tensor."""
    declared_bytes: int | None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Return the checkpoint at `path`, its headers checked against its configuration.

    `path` is what a model hub's download holds, or an `original/` folder, or a folder that has nothing but that; or it
    is a GGUF file, one part of a split one, or a directory of nothing else. Raises CheckpointError naming file and
    tensor.
    """
    survey = survey_checkpoint(path)
    if survey.problems:
        raise survey.problems[0]
    return survey.checkpoint


def survey_checkpoint(path: str | Path) -> Survey:
    """Return the checkpoint at `path` with all its problems; raises CheckpointError if there is no configuration."""
    gguf = _gguf(Path(path))
    if gguf is not None:
        return Survey(*survey_gguf(gguf), declared_bytes=None)
    directory = _directory(Path(path))
    document = read_json_object(directory / CONFIG_FILE)
    config = _read_config(directory, document)
    is_original = "model_type" not in document
    index = None if is_original or (directory / SINGLE_FILE).exists() else _read_index(directory / INDEX_FILE)
    store = TensorStore(index.path if index else directory)
    problems = _add_files(store, _original_files(directory) if is_original else _hugging_face_files(directory, index))
    if index:
        problems += _misplaced(store, index)
    checkpoint_format = ORIGINAL if is_original else _hugging_face_format(store, document)
    checkpoint = Checkpoint(directory, checkpoint_format, config, checkpoint_format.layout(config), store)
    problems += _tensor_problems(checkpoint, are_files_missing=bool(problems))
    return Survey(checkpoint, tuple(problems), index.declared_bytes if index else None)


def _gguf(path: Path) -> Path | None:
    """Return the GGUF file that `path` is, or holds instead of a checkpoint in another format."""
    if path.is_file():
        return path if is_gguf(path) or path.suffix == ".gguf" else None
    if not path.is_dir() or (path / CONFIG_FILE).exists() or any(path.glob("*.safetensors")):
        return None
    return gguf_in(path)


def _directory(path: Path) -> Path:
    """Return the directory that holds the weights: `path`, or `original/` in it when only that has any."""
    if not path.exists():
        raise CheckpointMissing(path, None, "no such directory")
    if not path.is_dir():
        problem = "is a file; a checkpoint is the directory that holds config.json, or a GGUF file"
        raise CheckpointMissing(path, None, problem)
    original = path / ORIGINAL_DIRECTORY
    has_weights = (path / INDEX_FILE).exists() or any(path.glob("*.safetensors"))
    return original if not has_weights and any(original.glob("*.safetensors")) else path


def _read_config(directory: Path, document: Mapping[str, object]) -> ModelConfig:
    generation_file = directory / GENERATION_FILE
    generation = read_json_object(generation_file) if generation_file.exists() else None
    try:
        return ModelConfig.from_json(document, generation)
    except ConfigError as error:
        raise CheckpointDamaged(directory / CONFIG_FILE, None, str(error)) from error


def _read_index(file: Path) -> Index:
    if not file.exists():
        raise CheckpointMissing(file, None, f"is missing, and so is {SINGLE_FILE}")
    document = read_json_object(file)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointDamaged(file, None, "holds no weight_map")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _is_plain_file_name(name):
            raise CheckpointDamaged(file, tensor, f"should lie in {name!r}, which is no *.safetensors beside the index")
    metadata = document.get("metadata")
    declared = metadata.get("total_size") if isinstance(metadata, dict) else None
    return Index(file, weight_map, int(declared) if isinstance(declared, int | float) else None)


def _is_plain_file_name(name: str) -> bool:
    """Return whether `name` stays in its directory; an index from elsewhere must not name files of ours."""
    return name.endswith(".safetensors") and not any(character in name for character in "/\\\0")


def _hugging_face_files(directory: Path, index: Index | None) -> list[Path]:
    if index is None:
        return [directory / SINGLE_FILE]
    return [directory / name for name in sorted(set(index.file_names.values()))]


def _original_files(directory: Path) -> list[Path]:
    """Return the files of `original/`, which has no index: what is there, and what the numbers in names ask for."""
    files = set(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointMissing(directory, None, "holds no *.safetensors")
    for file in list(files):
        if match := _NUMBERED.fullmatch(file.name):
            stem, width, count = match["stem"], len(match["number"]), match["count"]
            numbers = range(1, int(count) + 1)
            files |= {directory / f"{stem}{number:0{width}}-of-{count}.safetensors" for number in numbers}
    return sorted(files)


def _add_files(store: TensorStore, files: Iterable[Path]) -> list[CheckpointError]:
    problems: list[CheckpointError] = []
    for file in files:
        try:
            store.add_file(file)
        except CheckpointError as error:
            problems.append(error)
    return problems


def _misplaced(store: TensorStore, index: Index) -> list[CheckpointError]:
    """Return the tensors that are not in the sound file where the index says they are."""
    sound_files = {file.name for file in store.files.values()}
    return [
        CheckpointMissing(index.path.parent / name, tensor, f"is missing, but {index.path.name} says it is here")
        for tensor, name in index.file_names.items()
        if name in sound_files and (tensor not in store.files or store.files[tensor].name != name)
    ]


def _hugging_face_format(store: TensorStore, document: Mapping[str, object]) -> CheckpointFormat:
    """Return the format that the tensors' names show; where they show none, the one that config.json claims."""
    for name in store.entries:
        if name.endswith("experts.gate_up_proj_blocks"):
            return PACKED
        if name.endswith("experts.gate_up_proj"):
            return BF16
    return PACKED if document.get("quantization_config") else BF16


def _tensor_problems(checkpoint: Checkpoint, are_files_missing: bool) -> list[CheckpointError]:
    """Return what is wrong with each tensor; what an absent file explains already is not repeated."""
    found = [checkpoint.store.problem(stored) for stored in checkpoint.stored_tensors()]
    return [
        problem
        for problem in found
        if problem is not None and not (are_files_missing and isinstance(problem, CheckpointMissing))
    ]
