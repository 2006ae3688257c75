"""Metrics: each request once by its outcome, tokens only of what an engine took in, names as Prometheus wants them."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.cluster_status import BalanceStatus
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.errors import EngineStopped, QueueFull
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from router.auth import KeyRing
from router.backend import Readiness
from router.errors import Overloaded
from router.requests import Options, TextRequest
from router.service import InferenceService
from tests.router.fakes.asgi_client import HI, AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import hand_service, running
from tests.router.fakes.scripts import answer, turn

CHAT: dict[str, Any] = {"messages": HI}
UNIT_ABBREVIATIONS = re.compile(r"_(ms|us|ns|sec|secs|min|mins|kb|mb|gb|pct|perc|millis|milliseconds)(_|$)")


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of an exposition by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def requests_counted(text: str) -> Counter[tuple[str, str, str]]:
    """Return how many requests were counted by (endpoint, outcome, status)."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for (name, labels), value in samples(text).items():
        if name == "expertmesh_requests_total":
            by_name = dict(labels)
            counted[by_name["endpoint"], by_name["outcome"], by_name["status"]] = int(value)
    return counted


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[f"expertmesh_{name}", frozenset(labels.items())]


def exposition(service: InferenceService) -> str:
    return service.metrics.render().decode()


def test_imbalance_is_told_only_where_experts_are_balanced() -> None:
    service = hand_service(HandBackend())
    assert "expert_imbalance_ratio{" not in exposition(service)
    service.metrics.set_balance(BalanceStatus(1.25, 1.5, 7.0, 3, is_stalled=False))
    told = exposition(service)
    assert value(told, "expert_imbalance_ratio", source="planned") == 1.25
    assert value(told, "expert_imbalance_ratio", source="measured") == 1.5
    assert value(told, "expert_balance_age_seconds") == 7.0
    assert value(told, "expert_loads") == 3.0


def test_rescued_experts_are_told() -> None:
    service = hand_service(HandBackend())
    service.metrics.set_rescued(5)
    assert value(exposition(service), "experts_rescued") == 5.0


def test_each_request_is_counted_once_by_how_it_ended() -> None:
    """Refused by the gate, by the routing, by the body's check, by the service, by the engine, and answered."""
    backend = HandBackend(answer("A"))
    client = AsgiClient(backend, keys=KeyRing(["key"]), http={"max_body_bytes": 10_000, "port": 0})
    key = {"authorization": "Bearer key"}
    asked: list[tuple[tuple[str, str, str], str, str, Mapping[str, Any], Mapping[str, str]]] = [
        (("chat", "ok", "200"), "POST", "/v1/chat/completions", CHAT, key),
        (("chat", "ok", "200"), "POST", "/v1/chat/completions", CHAT | {"stream": True}, key),
        (("chat", "4xx", "401"), "POST", "/v1/chat/completions", CHAT, {}),
        (("chat", "4xx", "400"), "POST", "/v1/chat/completions", CHAT | {"n": 99}, key),
        (("chat", "4xx", "404"), "POST", "/v1/chat/completions", CHAT | {"model": "gpt-4"}, key),
        (("chat", "4xx", "405"), "GET", "/v1/chat/completions", {}, key),
        (("chat", "4xx", "413"), "POST", "/v1/chat/completions", CHAT | {"user": "x" * 20_000}, key),
        (("completion", "ok", "200"), "POST", "/v1/completions", {"prompt": "Hi"}, key),
        (("tokenize", "ok", "200"), "POST", "/tokenize", {"prompt": "Hi"}, key),
        (("models", "ok", "200"), "GET", "/v1/models", {}, key),
        (("other", "4xx", "404"), "GET", "/a/name/that/nobody/serves", {}, key),
    ]
    for _, method, path, body, headers in asked:
        client.request(method, path, json=body or None, headers=headers)
    for path in ("/health", "/ready", "/metrics"):
        client.request("GET", path, headers=key)

    assert requests_counted(exposition(client.service)) == Counter(expected for expected, *_ in asked)


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_by_the_engine_is_counted_by_its_status(stream: bool) -> None:
    for error, status in ((QueueFull("full"), "429"), (EngineStopped("gone"), "503"), (ZeroDivisionError(), "500")):
        client = AsgiClient(HandBackend(answer("A"), error=error))
        assert client.chat(stream=stream).status_code == int(status)
        text = exposition(client.service)
        assert requests_counted(text) == Counter({("chat", f"{status[0]}xx", status): 1})
        assert value(text, "prompt_tokens_total") == 0


def test_a_failure_inside_of_a_stream_is_no_success() -> None:
    client = AsgiClient(HandBackend(answer("A" * 30), error=EngineStopped("gone"), fails_after=3))
    assert client.chat(stream=True).status_code == 200
    text = exposition(client.service)
    assert requests_counted(text) == Counter({("chat", "5xx", "503"): 1})
    assert value(text, "request_seconds_count", outcome="5xx") == 1


def test_a_server_that_is_not_ready_serves_no_prompt() -> None:
    client = AsgiClient(HandBackend(answer("A"), readiness=Readiness(is_ready=False, stage="loading")))
    assert client.chat().status_code == 503
    assert requests_counted(exposition(client.service)) == Counter({("chat", "5xx", "503"): 1})


def test_prompt_tokens_count_once_and_only_when_an_engine_took_them_in() -> None:
    backend = HandBackend(answer("A"), num_cached=2)
    client = AsgiClient(backend)
    client.chat(messages=[{"role": "user", "content": "word " * 5000}])
    assert value(exposition(client.service), "prompt_tokens_total") == 0

    client.chat(n=3)
    text = exposition(client.service)
    assert value(text, "prompt_tokens_total") == len(backend.requests[0].prompt_ids)
    assert value(text, "cached_prompt_tokens_total") == 2


def test_of_several_prompts_only_those_that_were_taken_in_count() -> None:
    """The second prompt is refused; the first, of two tokens, was begun."""

    class RefusesTheSecond(HandBackend):
        async def generate(self, request: SequenceRequest, timeout_s: float) -> AsyncGenerator[TokenEvent, None]:
            if request.prompt_ids == (3, 4, 5):
                await asyncio.sleep(0.05)
                raise QueueFull("full")
            async for event in super().generate(request, timeout_s):
                yield event

    service = hand_service(RefusesTheSecond(turn("a b c d e f g h"), delay_s=0.02))

    async def work() -> None:
        async with await service.complete(TextRequest(((1, 2), (3, 4, 5)), Options())) as generation:
            with pytest.raises(Overloaded):
                _ = [update async for update in generation]

    asyncio.run(work())
    assert value(exposition(service), "prompt_tokens_total") == 2
    assert requests_counted(exposition(service)) == Counter({("completion", "4xx", "429"): 1})


def test_who_leaves_is_counted_as_cancelled_once() -> None:
    backend = HandBackend(answer("A" * 200), delay_s=0.05)
    with running(backend) as server:
        with (
            httpx.Client(trust_env=False, timeout=20) as client,
            client.stream("POST", f"{server.url}/v1/chat/completions", json=CHAT | {"stream": True}) as response,
        ):
            next(response.iter_bytes())
        deadline_s = time.monotonic() + 10
        while not (counted := requests_counted(exposition(server.service))):
            assert time.monotonic() < deadline_s, "the client's leaving was not noticed"
            time.sleep(0.05)
    assert counted == Counter({("chat", "cancelled", "499"): 1})
    assert value(exposition(server.service), "requests_running") == 0


def test_who_leaves_in_the_middle_of_a_body_is_no_fault_of_the_server() -> None:
    client = AsgiClient(HandBackend(answer("A")))
    sent: list[Mapping[str, Any]] = []

    async def work() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
        await client.app(scope, receive, send)

    asyncio.run(work())
    assert sent == []
    assert requests_counted(exposition(client.service)) == Counter({("chat", "cancelled", "499"): 1})


def test_calls_over_grpc_are_counted_alike() -> None:
    backend = HandBackend(turn("a b c d"))
    with running(backend, KeyRing(["key"])) as server, grpc.insecure_channel(server.grpc_address) as channel:
        stub: Any = rpc.InferenceStub(channel)
        key = (("authorization", "Bearer key"),)
        good = pb.GenerateRequest(text="x", sampling=pb.Sampling(max_tokens=4))
        assert list(stub.Generate(good, metadata=key, timeout=20))
        for request, metadata in ((good, ()), (pb.GenerateRequest(text="x", model="gpt-4"), key)):
            with pytest.raises(grpc.RpcError):
                list(stub.Generate(request, metadata=metadata, timeout=20))
        stub.ListModels(pb.ListModelsRequest(), metadata=key, timeout=20)
        counted = requests_counted(exposition(server.service))
    assert counted == Counter(
        {
            ("completion", "ok", "200"): 1,
            ("completion", "4xx", "401"): 1,
            ("completion", "4xx", "404"): 1,
            ("models", "ok", "200"): 1,
        }
    )


def test_the_wait_in_the_engines_queue_is_observed_once_for_each_prompt() -> None:
    client = AsgiClient(HandBackend(answer("A"), queued_s=0.75))
    client.chat(n=2)
    text = exposition(client.service)
    assert (value(text, "queue_seconds_count"), value(text, "queue_seconds_sum")) == (1, 0.75)


def lint(text: str) -> list[str]:
    """Return what `promtool check metrics` would complain of."""
    found: list[str] = []
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        complaints = {
            "has no help": not family.documentation,
            "has no type": family.type == "unknown",
            "is not ours": not re.fullmatch(r"expertmesh_[a-z0-9_]+", name),
            "ends in _total and counts nothing": family.type != "counter" and name.endswith("_total"),
            "names its type": bool(re.search(r"_(gauge|counter|histogram|summary)$", name)),
            "has a name that belongs to histograms": bool(re.search(r"_(bucket|count|sum)$", name)),
            "has a unit that is no base unit": bool(UNIT_ABBREVIATIONS.search(name)),
            "has a label that belongs to histograms": family.type != "histogram" and "le" in labels,
        }
        found += [f"{name} {what}" for what, is_so in complaints.items() if is_so]
    return found


def test_the_exposition_is_as_promtool_wants_it() -> None:
    client = AsgiClient(HandBackend(answer("A")))
    client.chat()
    text = client.request("GET", "/metrics").text
    assert lint(text) == []
    histograms = {family.name for family in text_string_to_metric_families(text) if family.type == "histogram"}
    waits = ("time_to_first_token", "inter_token", "queue", "request")
    assert {f"expertmesh_{name}_seconds" for name in waits} <= histograms


def test_the_lint_can_fail() -> None:
    bad = "# TYPE other_requests gauge\nother_requests_total 1\n# TYPE x_ms counter\nx_ms_total 1\n"
    assert len(lint(bad)) >= 4
