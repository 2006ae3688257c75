"""Reads the requirement files, and asks whether the extra package index that one names can be reached."""

import re
import urllib.error
import urllib.request

INDEX_TIMEOUT_S = 6.0


def torch_requirement(requirements: str) -> str:
    """Return the line of a requirements file that pins torch."""
    match = re.search(r"^torch==\S+", requirements, flags=re.MULTILINE)
    if match is None:
        raise ValueError("the requirements file pins no torch")
    return match.group()


def index_url(requirements: str) -> str | None:
    """Return the extra index that a requirements file names."""
    match = re.search(r"^--extra-index-url (\S+)", requirements, flags=re.MULTILINE)
    return match[1] if match else None


def without_index(requirements: str, folder: str) -> str:
    """Return a requirements file without its extra index, to be read from elsewhere; `folder` is where it came from.

    An index that is away costs pip five tries for each of a hundred packages, so it is left out rather than tried.
    """
    text = re.sub(r"^--extra-index-url .*\n", "", requirements, flags=re.MULTILINE)
    return re.sub(r"^-r (?!/)(\S+)", rf"-r {folder}/\1", text, flags=re.MULTILINE)


def answers(url: str, timeout_s: float = INDEX_TIMEOUT_S) -> bool:
    """Return whether a package index answers within the time limit."""
    try:
        with urllib.request.urlopen(f"{url}/torch/", timeout=timeout_s) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False
