"""From what a config or a user calls a model to its checkpoint: the embedded one, a path, or a fetched one."""

import re
from pathlib import Path

from model.cache_dir import cache_dir, model_dir
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.open import open_checkpoint
from model.config import ModelConfig
from model.errors import CheckpointMissing, ConfigError
from model.tiny.asset import ensure_tiny_checkpoint

EMBEDDED_MODEL = "tiny"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def open_model(name: str) -> Checkpoint:
    """Return the checkpoint that `name` means, as `find_model` finds it; raises CheckpointError.

    The error for a fetched model that is not whole says how to complete it.
    """
    directory = find_model(name)
    try:
        return open_checkpoint(directory)
    except CheckpointMissing as error:
        if not directory.is_relative_to(cache_dir() / "models"):
            raise
        hint = f"{error.problem}; `expertmesh fetch {name}` completes it"
        raise CheckpointMissing(error.file, error.tensor, hint) from error


def check_context(config: ModelConfig, max_context_tokens: int | None) -> None:
    """Raise ConfigError if sequences are to be longer than the model can have them."""
    if max_context_tokens is not None and max_context_tokens > config.max_positions:
        problem = f"more than the model's maximum of {config.max_positions}"
        raise ConfigError("max_context_tokens", max_context_tokens, problem)


def find_model(name: str) -> Path:
    """Return the directory or GGUF file of a model, which may yet be damaged inside.

    `tiny` is the embedded model, expanded into the cache on first use; any other name is a path or, if there is
    nothing, a model on the hub (`owner/name`) that has been fetched into the cache. Raises CheckpointMissing.
    """
    if name == EMBEDDED_MODEL:
        return _embedded()
    directory = Path(name).expanduser()
    if directory.exists():
        return directory
    if not _HUB_NAME.fullmatch(name):
        raise CheckpointMissing(
            name, None, f"no such directory; `{EMBEDDED_MODEL}` is the embedded model, openai/gpt-oss-20b one to fetch"
        )
    fetched = model_dir(name)
    if not fetched.is_dir():
        raise CheckpointMissing(
            name, None, f"neither a directory nor in the cache {cache_dir()}; `expertmesh fetch {name}` downloads it"
        )
    return fetched


def _embedded() -> Path:
    try:
        return ensure_tiny_checkpoint(cache_dir())
    except OSError as error:
        raise CheckpointMissing(
            cache_dir(), None, f"the embedded model cannot be expanded there ({error}); EXPERTMESH_CACHE names another"
        ) from error
