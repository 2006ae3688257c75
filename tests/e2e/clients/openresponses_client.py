"""The OpenResponses acceptance suite from its own repository: its cases of text, in its dialect of event names.

Left out are cases of what no text server of ours has: images, web sockets, compaction.
"""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
CASES = (
    "basic-response",
    "assistant-phase",
    "response-output-phase-schema",
    "streaming-response",
    "system-prompt",
    "tool-calling",
    "multi-turn",
)


def run(url: str, model: str) -> None:
    """Run it in the current folder, where its packages and its repository are."""
    suite = Path("source").resolve()
    (suite / "node_modules").unlink(missing_ok=True)
    (suite / "node_modules").symlink_to(Path("node_modules").resolve())
    command = [str(Path("node_modules/.bin/bun").resolve()), "run", "bin/compliance-test.ts", "--json"]
    command += ["-u", f"{url}/v1", "-k", "none", "-m", model, "--filter", ",".join(CASES)]
    done = subprocess.run(command, cwd=suite, capture_output=True, text=True, check=False)
    report: Any = json.loads(done.stdout[done.stdout.index("{") :])
    for result in report["results"]:
        assert result["status"] == "passed", json.dumps(result)[:2000]
    assert {result["id"] for result in report["results"]} == set(CASES), report
    _log.info("text cases: %d of %d", len(report["results"]), len(CASES))


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    run(sys.argv[1], sys.argv[2])
