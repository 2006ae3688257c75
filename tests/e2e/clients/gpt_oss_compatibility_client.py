"""gpt-oss's compatibility-test from its own repository: thirty cases over the Responses and the Chat API, by shape.

The suite's cases ask for tools that the tiny model does not know, so what is held is the shape of every answer; how
often the model calls the right tool is told, and is its own affair. Every run must come to an end: the suite's agent
gives a case up, for both APIs, where a call is of no tool on offer or its arguments are no JSON, and its tools are not
strict.
"""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
NUM_RUNS = 60


def run(url: str, model: str) -> None:
    """Run it whole and streamed in the current folder, where its packages and its repository are."""
    suite = Path("source/compatibility-test").resolve()
    (suite / "node_modules").unlink(missing_ok=True)
    (suite / "node_modules").symlink_to(Path("node_modules").resolve())
    provider: dict[str, Any] = {"apiBaseUrl": f"{url}/v1", "apiKey": "none", "apiType": ["responses", "chat"]}
    provider |= {"modelName": model, "providerDetails": {"temperature": 0.0, "seed": 1}}
    (suite / "providers.ts").write_text(f"export const PROVIDERS = {{ expertmesh: {json.dumps(provider)} }};\n")
    for old in suite.glob("rollout_*"):
        old.unlink()
    command = [str(Path("node_modules/.bin/tsx").resolve()), "index.ts", "--provider", "expertmesh"]
    done = subprocess.run(command, cwd=suite, capture_output=True, text=True, check=False)
    invalid = [int(count) for count in re.findall(r"Invalid .* responses: (\d+)", done.stdout)]
    rows = [json.loads(line) for path in suite.glob("rollout_*") for line in path.read_text().splitlines()]
    shaped = [row for row in rows if row.get("result", {}).get("validResponse")]
    called = sum(row["result"]["successToolCall"] for row in shaped)
    ends = [row["error"] for row in rows if "error" in row]
    assert invalid == [0, 0], done.stdout[-3000:]
    assert not ends, f"{len(shaped)} of {NUM_RUNS} in shape; {ends}"
    assert len(shaped) == NUM_RUNS, f"{len(shaped)} of {NUM_RUNS} in shape"
    _log.info("shape: %d of %d runs, %d calls made", len(shaped), NUM_RUNS, called)


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    run(sys.argv[1], sys.argv[2])
