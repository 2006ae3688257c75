"""Logprobs of a prompt's own tokens, as evaluation harnesses ask for them: `echo` and `logprobs` of a completion."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.standalone import Standalone, StandaloneSections
from model.tokenizer import Tokenizer
from router.backend import Readiness, StandaloneBackend
from tests.router.fakes.asgi_client import AsgiClient

MAX_CONTEXT_TOKENS = 512
READY = Readiness(True, "ready", 1.0, fingerprint="tiny", max_context_tokens=MAX_CONTEXT_TOKENS)
TOKENIZER = Tokenizer()
TEXT = "The café's sum of 17 and 25 is 42 😀, stop."
IDS = TOKENIZER.encode(TEXT)
SCORED: dict[str, Any] = {"echo": True, "logprobs": 3, "temperature": 0.0, "max_tokens": 4}


@pytest.fixture(scope="module")
def client() -> Generator[AsgiClient]:
    sections = StandaloneSections(
        ModelSection(max_context_tokens=MAX_CONTEXT_TOKENS),
        NumericsSection(),
        EngineSection(kv_cache_bytes=20_000_000),
        AttentionSection(),
    )
    running, backend = Standalone.load(sections), StandaloneBackend()
    running.start(backend.on_step)
    backend.attach(running.engine, READY)
    yield AsgiClient(backend)  # pyright: ignore[reportArgumentType] - any backend will do
    running.engine.check_integrity()
    running.stop()


def complete(client: AsgiClient, **body: Any) -> dict[str, Any]:
    response = client.request("POST", "/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_prompts_tokens_have_the_logprobs_that_they_would_be_sampled_with(client: AsgiClient) -> None:
    """What may come after each beginning is what a request that has only that beginning is told, to the last bit."""
    (scored,) = complete(client, prompt=IDS, **SCORED)["choices"]
    logprobs = scored["logprobs"]

    assert logprobs["tokens"][: len(IDS)] == [TOKENIZER.token_text(token_id) for token_id in IDS]
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
    for place in range(1, len(IDS)):
        # A bias has an ordinary token chosen, and changes no logprob.
        bias = {"logit_bias": {str(IDS[place]): 100}, "temperature": 0.0, "max_tokens": 1, "logprobs": 3}
        (one,) = complete(client, prompt=IDS[:place], **bias)["choices"]
        assert one["logprobs"]["token_logprobs"] == [logprobs["token_logprobs"][place]]
        assert one["logprobs"]["top_logprobs"] == [logprobs["top_logprobs"][place]]


def test_the_text_goes_on_as_it_does_without(client: AsgiClient) -> None:
    plain = complete(client, prompt=TEXT, **SCORED | {"echo": False})
    scored = complete(client, prompt=TEXT, **SCORED)

    assert scored["choices"][0]["text"] == TEXT + plain["choices"][0]["text"]
    assert scored["choices"][0]["finish_reason"] == plain["choices"][0]["finish_reason"]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [scored["usage"][name] for name in counts] == [plain["usage"][name] for name in counts]
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert scored["choices"][0]["logprobs"][name][len(IDS) :] == plain["choices"][0]["logprobs"][name]


def test_offsets_say_where_each_token_begins(client: AsgiClient) -> None:
    (scored,) = complete(client, prompt=TEXT, **SCORED)["choices"]

    for token, offset in zip(scored["logprobs"]["tokens"], scored["logprobs"]["text_offset"], strict=True):
        assert "\ufffd" in token or scored["text"][offset:].startswith(token), (token, offset)


def test_a_prompt_may_be_scored_alone_in_a_stream_and_beside_others(client: AsgiClient) -> None:
    alone = SCORED | {"max_tokens": 0}
    answered = complete(client, prompt=[IDS, IDS[:1] + IDS[2:]], n=2, **alone)
    assert [choice["text"] for choice in answered["choices"][:2]] == [TEXT, TEXT]
    assert answered["choices"][0]["logprobs"] == answered["choices"][1]["logprobs"]
    assert answered["choices"][0]["logprobs"] != answered["choices"][2]["logprobs"]
    assert answered["usage"]["completion_tokens"] == 0

    lines = client.request("POST", "/v1/completions", json={"prompt": IDS, "stream": True, **alone}).text.splitlines()
    chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines if line.startswith("data: {")]
    told = [one for chunk in chunks for one in chunk["logprobs"]["token_logprobs"]]
    assert told == answered["choices"][0]["logprobs"]["token_logprobs"]


def test_a_stop_string_in_the_prompt_stops_nothing(client: AsgiClient) -> None:
    (scored,) = complete(client, prompt=TEXT, **SCORED, stop=["sum"])["choices"]

    assert scored["text"].startswith(TEXT)
    assert len(scored["logprobs"]["tokens"]) >= len(IDS)


def test_a_prompt_that_leaves_no_room_is_refused(client: AsgiClient) -> None:
    response = client.request("POST", "/v1/completions", json={"prompt": [5] * MAX_CONTEXT_TOKENS, **SCORED})

    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
