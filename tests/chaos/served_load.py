"""What clients ask of a served application while its processes are killed: streams and whole answers, all at once."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.e2e.mixed_requests import MixedRequest, comparable, mixed_requests
from tests.e2e.served import Served

NUM_STREAMS = 4


def requests() -> list[MixedRequest]:
    """Return thirteen of the mixed requests: every fifth, and the longest prompts."""
    return [*mixed_requests()[::5], *mixed_requests()[31:34]]


def streamed(client: httpx.Client, seed: int) -> list[Any]:
    """Return a stream's choices as they came, joined: how the text was cut up may vary."""
    body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 60, "seed": seed, "temperature": 1.5}
    options = {"stream": True, "ignore_eos": True}
    text, finish_reasons = "", []
    with client.stream("POST", "/v1/completions", json=body | options) as answer:
        assert answer.status_code == httpx.codes.OK
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                for choice in event["choices"]:
                    text += choice["text"]
                    finish_reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    return [text, finish_reasons]


def ask_all(server: Served) -> dict[str, Any]:
    """Send everything at once and return what is comparable of the answers."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=240.0) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]

        def ask(request: MixedRequest | int) -> Any:
            if isinstance(request, int):
                return streamed(client, request)
            return comparable(client.post(request.path, json={"model": model, **request.body}))

        asked: list[MixedRequest | int] = [*requests(), *range(NUM_STREAMS)]
        with ThreadPoolExecutor(len(asked)) as pool:
            return dict(zip(map(str, asked), pool.map(ask, asked), strict=True))
