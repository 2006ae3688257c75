"""Where this program keeps files that it can make again: the user's cache directory."""

import os
import sys
from pathlib import Path

CACHE_VARIABLE = "EXPERTMESH_CACHE"


def cache_dir() -> Path:
    """Return the cache directory, which need not exist yet.

    It is `$EXPERTMESH_CACHE` if set, else the platform's user cache directory (XDG base directories on Linux,
    `~/Library/Caches` on macOS) with `expertmesh` below it.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "expertmesh"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    parent = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return parent / "expertmesh"


def model_dir(name: str) -> Path:
    """Return the cache's directory for a fetched model such as `openai/gpt-oss-20b`.

    Raises ValueError for a name that is not `owner/model`: it must not lead out of the cache.
    """
    parts = name.split("/")
    if len(parts) != 2 or any(part in {"", ".", ".."} or "\\" in part for part in parts):
        raise ValueError(f"model name is {name!r}; it must be owner/model, such as openai/gpt-oss-20b")
    return cache_dir().joinpath("models", *parts)
