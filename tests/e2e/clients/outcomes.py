"""What came of a client: its script says `ok WHAT: WHAT WAS SEEN` for each check; the table is for people."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECK = "ok "
"""What the line of a check begins with; clients and their libraries write others."""
OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
"""A client that tests ours asks nobody else."""


@dataclass(frozen=True)
class Outcome:
    """One client against one server."""

    client: str
    version: str
    preset: str
    checked: tuple[str, ...]
    failure: str | None
    """The end of what the script said, or None."""
    seconds: float


def outcome(
    client: str, version: str, preset: str, command: Sequence[str], folder: Path, timeout_s: float = 900.0
) -> Outcome:
    """Run a client's script in its folder; nothing that it does raises."""
    began = time.monotonic()
    environment = {**os.environ, **OFFLINE}
    environment.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said, failure = done.stdout, None if done.returncode == 0 else f"status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        said, failure = str(error.stdout or ""), f"not done after {timeout_s:g} s"
    checks = (line.removeprefix(CHECK) for line in said.splitlines() if line.startswith(CHECK))
    checked = tuple(dict.fromkeys(check.partition(": ")[0] for check in checks))
    if failure is None and not checked:
        failure = "it checked nothing"
    if failure is not None:
        failure = f"{failure}\n{said[-3000:]}"
    return Outcome(client, version, preset, checked, failure, time.monotonic() - began)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    rows = ["| client | version | server | checked | result | s |", "|---|---|---|---|---|---|"]
    for one in outcomes:
        result = "passed" if one.failure is None else f"FAILED: {one.failure.splitlines()[0]}"
        cells = (one.client, one.version, one.preset, ", ".join(one.checked), result, f"{one.seconds:.0f}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
