"""The errors of the model package.

ModelError
├── ConfigError(field, value)            a configuration that is no gpt-oss model, or not one we can run
├── CheckpointError(file, tensor)
│   ├── CheckpointMissing                a file, or a tensor, that should be there is not
│   ├── CheckpointDamaged                bytes that are not what the format says
│   └── CheckpointMismatch               a sound tensor whose shape or dtype is not what the configuration asks for
├── TokenizerError                       ids that are no tokens, or a vocabulary that is not the expected one
└── KernelsUnavailable                   the native kernels were demanded and cannot be built

All of them survive pickling, so that they cross processes whole.
"""

from pathlib import Path


class ModelError(Exception):
    """Anything the world may do to the model: its files and its inputs."""


class ConfigError(ModelError):
    """A field of the model's configuration cannot be used; `value` is None when the field is missing."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(field, value, problem)
        self.field = field
        self.value = value
        self.problem = problem

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.field}: {self.problem}"
        return f"{self.field} = {self.value!r}: {self.problem}"


class CheckpointError(ModelError):
    """A checkpoint cannot be read; `tensor` is None when the whole file is meant."""

    def __init__(self, file: str | Path, tensor: str | None, problem: str) -> None:
        super().__init__(file, tensor, problem)
        self.file = Path(file)
        self.tensor = tensor
        self.problem = problem

    def __str__(self) -> str:
        place = str(self.file) if self.tensor is None else f"{self.file}: tensor {self.tensor}"
        return f"{place}: {self.problem}"


class CheckpointMissing(CheckpointError):
    """A file or a tensor that should be there is not."""


class CheckpointDamaged(CheckpointError):
    """The bytes of a file are not what its format, or its own header, says."""


class CheckpointMismatch(CheckpointError):
    """A sound tensor whose shape or dtype is not what the configuration asks for."""


class TokenizerError(ModelError):
    """Ids that are no tokens of the vocabulary, or a vocabulary that is not the expected one."""


class KernelsUnavailable(ModelError):
    """The native kernels were demanded and cannot be built."""
