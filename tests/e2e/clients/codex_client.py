"""OpenAI's codex command line over its Responses wire: an answer, the turn after it, one in a schema."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
TIMEOUT_S = 180.0
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}
CONFIG = """
model = "{model}"
model_provider = "expertmesh"
model_reasoning_effort = "low"
[model_providers.expertmesh]
name = "Expertmesh"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "EXPERTMESH_KEY"
"""


def run(url: str, model: str) -> None:
    """Ask as a user at a terminal would, in a home and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "config.toml").write_text(CONFIG.format(url=url, model=model))
        (home / "schema.json").write_text(json.dumps(SCHEMA))
        said, usage = _exec(home, "exec", "What is 17 + 25?")
        assert said, "codex showed no message"
        assert usage["input_tokens"] > 3000, usage
        _log.info("exec: %r, %d tokens in", said, usage["input_tokens"])
        again, more = _exec(home, "exec", "resume", "--last", "And 20 + 20?")
        assert again, "codex showed no message"
        assert more["input_tokens"] > usage["input_tokens"], (more, usage)
        _log.info("resume: %r, %d tokens in", again, more["input_tokens"])
        formed, _ = _exec(home, "exec", "--output-schema", str(home / "schema.json"), "What is 17 + 25?")
        assert isinstance(json.loads(formed)["sum"], int), formed
        _log.info("output-schema: %s", formed)


def _exec(home: Path, *arguments: str) -> tuple[str, dict[str, int]]:
    """Return the last message and the usage that a run tells of; raises with what it said if there is none."""
    options = ["--skip-git-repo-check", "--json"]
    command = [str(Path.cwd() / "node_modules" / ".bin" / "codex"), *arguments[:-1], *options, arguments[-1]]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env=os.environ | {"CODEX_HOME": str(home), "EXPERTMESH_KEY": "none"},
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
    )
    events: list[Any] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ended = [event for event in events if event["type"] == "turn.completed"]
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert ended, done.stdout
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"][-1], ended[-1]["usage"]


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    run(sys.argv[1], sys.argv[2])
