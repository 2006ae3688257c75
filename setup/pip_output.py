"""Turns pip's output into one line of progress, and its failures into what a person can do about them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_COLLECTING = re.compile(r"\s*(?:Collecting|Requirement already satisfied:) (\S+)")
_DOWNLOADING = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) (?:\S*/)?([^\s/]+?)(?:-py\S+|-cp\S+|\.tar\.gz)?( \([^)]*\))?$"
)
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_UNREACHABLE = re.compile(
    r"NameResolutionError|NewConnectionError|ConnectTimeoutError|ProxyError|Network is unreachable"
)
_PROXY_VARIABLE = re.compile(r"(https?|all)_proxy", flags=re.IGNORECASE)
_INSTALLING = re.compile(r"Installing collected packages: (.*)")


@dataclass(slots=True)
class PipProgress:
    """Follows pip's lines (`--progress-bar raw`) and keeps one phrase that says how far it is."""

    num_expected: int | None = None
    num_seen: int = 0
    phrase: str = ""
    _download: str = ""

    def feed(self, line: str) -> None:
        """Take in one line of pip's output."""
        if match := _PROGRESS.match(line):
            done, whole = int(match[1]), int(match[2])
            percent = f" {100 * done // whole} %" if whole else ""
            self.phrase = f"{self._counter()}{self._download}{percent}"
        elif match := _INSTALLING.match(line):
            self.phrase = f"unpacking {len(match[1].split(','))} packages"
        elif match := _COLLECTING.match(line):
            self.num_seen += 1
            self._download = re.split(r"[<>=!~;\[]", match[1])[0]
            self.phrase = f"{self._counter()}{self._download}"
        elif match := _DOWNLOADING.match(line):
            self._download = match[1] + (match[2] or "")
            self.phrase = f"{self._counter()}{self._download}"

    def _counter(self) -> str:
        if self.num_expected is None:
            return ""
        return f"{min(self.num_seen, self.num_expected)}/{self.num_expected} "


def advice(output: str, variables: Mapping[str, str]) -> str | None:
    """Return what to do about a failed pip, or None when its own last lines say it best.

    `variables` is the environment that pip ran with; it tells whether a proxy stands in between.
    """
    if "No space left on device" in output:
        return "The disk is full. Free some space, then run the same command again; what is done stays done."
    if "CERTIFICATE_VERIFY_FAILED" in output:
        return "The package index's certificate is not trusted here. Set PIP_CERT to your organisation's CA file."
    if _UNREACHABLE.search(output):
        proxies = [f"{name}={value}" for name, value in variables.items() if _PROXY_VARIABLE.fullmatch(name) and value]
        if proxies:
            return f"The package index cannot be reached through {' '.join(proxies)}. Correct or unset that variable."
        return "The package index cannot be reached. Check the network; the same command goes on where it stopped."
    if "Permission denied" in output:
        return (
            "A file cannot be written. Does .venv belong to another user? Remove it, then run the same command again."
        )
    return None


def last_words(output: str, num_lines: int = 5) -> str:
    """Return pip's error lines, or its last lines if it named no error."""
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("Progress ")]
    errors = [line for line in lines if line.startswith(("ERROR", "error"))]
    return "\n".join((errors or lines)[-num_lines:])
