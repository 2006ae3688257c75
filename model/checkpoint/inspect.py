"""What a checkpoint holds, its sizes by part, and whether it is whole; for a person or a program to read."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from model.checkpoint.layout import AnyFormatName
from model.checkpoint.open import Survey, survey_checkpoint
from model.config import ModelConfig
from model.sizes import PartSizes


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """A checkpoint's contents. Sizes are those of the tensors that are really there."""

    path: Path
    format: AnyFormatName
    config: ModelConfig
    num_parameters: int
    """Of the model that the configuration describes."""
    num_files: int
    num_tensors: int
    tensor_bytes: int
    """Of all tensors, those we don't know included."""
    bytes_by_part: PartSizes
    declared_bytes: int | None
    """What the index says all tensors take, if it says so."""
    problems: tuple[str, ...]
    """Each names file and tensor."""
    unknown_tensors: tuple[str, ...]
    """Tensors that the layout does not ask for; they are never read."""

    @property
    def is_whole(self) -> bool:
        """Return whether every tensor is there, in its right shape and dtype."""
        return not self.problems

    def to_json(self) -> dict[str, object]:
        """Return the report as a JSON object."""
        document: dict[str, object] = asdict(self)
        document["path"] = str(self.path)
        document["config"] = self.config.to_json(packed=self.format != "bf16")
        return document | {"is_whole": self.is_whole}


def inspect_checkpoint(path: str | Path) -> CheckpointReport:
    """Return what the checkpoint in or at `path` holds; raises CheckpointError if it has no readable configuration."""
    survey = survey_checkpoint(path)
    checkpoint = survey.checkpoint
    entries = checkpoint.store.entries
    known = {stored.name for stored in checkpoint.stored_tensors()}
    return CheckpointReport(
        path=checkpoint.path,
        format=checkpoint.format.name,
        config=checkpoint.config,
        num_parameters=checkpoint.config.num_parameters(),
        num_files=len(set(checkpoint.store.files.values())),
        num_tensors=len(entries),
        tensor_bytes=sum(entry.num_bytes for entry in entries.values()),
        bytes_by_part=_bytes_by_part(survey),
        declared_bytes=survey.declared_bytes,
        problems=tuple(str(problem) for problem in survey.problems),
        unknown_tensors=tuple(sorted(name for name in entries if name not in known)),
    )


def _bytes_by_part(survey: Survey) -> PartSizes:
    sizes = dict.fromkeys((field.name for field in fields(PartSizes)), 0)
    entries = survey.checkpoint.store.entries
    for stored in survey.checkpoint.stored_tensors():
        if stored.name in entries:
            sizes[stored.part] += entries[stored.name].num_bytes
    return PartSizes(**sizes)
