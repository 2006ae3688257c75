"""grpcurl, which knows our proto by reflection alone: list, describe, health, a chat, a text, an error's status."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
SERVICE = "expertmesh.inference.v1.Inference"


def run(address: str, model: str) -> None:
    """Call everything that needs no file."""
    listed = _grpcurl(address, "list").split()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(listed), listed
    assert "rpc Chat" in _grpcurl(address, "describe", SERVICE)
    _log.info("reflection: %s", ", ".join(listed))
    (health,) = _called(address, "grpc.health.v1.Health/Check", {})
    assert health == {"status": "SERVING"}, health
    _log.info("health: SERVING")

    sampling = {"temperature": 0, "max_tokens": 200}
    asked = {"messages": [{"role": "ROLE_USER", "content": "What is 17 + 25?"}], "sampling": sampling}
    events = _called(address, f"{SERVICE}/Chat", {"model": model, **asked})
    content = "".join(event.get("delta", {}).get("content", "") for event in events)
    assert "42" in content, events
    assert events[-2] == {"finished": {"reason": "FINISH_REASON_STOP"}}, events
    assert events[-1]["usage"]["num_completion_tokens"] > 3, events
    _log.info("chat: %s in %d messages", content, len(events))
    going_on = {"model": model, "text": "Once", "sampling": {"temperature": 0, "max_tokens": 5}}
    pieces = _called(address, f"{SERVICE}/Generate", going_on)
    assert pieces[-1]["usage"]["num_completion_tokens"] == 5, pieces
    _log.info("generate: 5 tokens")
    refused = _run("-d", json.dumps({"model": "none", **asked}), address, f"{SERVICE}/Chat")
    assert refused.returncode != 0, refused
    assert "Code: NotFound" in refused.stderr, refused.stderr
    _log.info("status: NotFound")


def _called(address: str, method: str, message: dict[str, Any]) -> list[Any]:
    """Return the messages that a method answers with."""
    text, found = _grpcurl(address, method, data=json.dumps(message)).strip(), []
    while text:
        one, end = json.JSONDecoder().raw_decode(text)
        found.append(one)
        text = text[end:].lstrip()
    return found


def _grpcurl(address: str, *words: str, data: str | None = None) -> str:
    done = _run(*(("-d", data) if data is not None else ()), address, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("grpcurl")), "-plaintext", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    run(sys.argv[3], sys.argv[2])
