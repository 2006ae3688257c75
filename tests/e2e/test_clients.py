"""What clients see of a real cluster: the official openai client and the generated gRPC stub, on one `tiny` server.

All ways to ask the same with the same seed give the same. Of what the model says only the likeliest is asserted: one
easy sum, one call, and what is said of its result.
"""

import json
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from openai import OpenAI

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.e2e.mixed_requests import WEATHER_TOOL
from tests.e2e.served import Served, served

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

QUESTION = "What is 17 + 25?"
SAMPLED: dict[str, Any] = {"seed": 11, "temperature": 2.0, "max_tokens": 60}
GREEDY: dict[str, Any] = {"seed": 1, "temperature": 0.0, "max_tokens": 200}
BEGINNING = "Once upon a time"
NUM_TOKENS = 40
TIMEOUT_S = 120.0


@dataclass
class Said:
    """One answer, whichever way it came."""

    reasoning: str = ""
    content: str = ""
    finish: str = ""
    num_completion: int = 0
    fingerprint: str | None = None
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


@pytest.fixture(scope="module")
def server() -> Generator[Served]:
    with served("tiny") as one:
        yield one


@pytest.fixture
def client(server: Served) -> Generator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S) as one:
        yield one


@pytest.fixture
def channel(server: Served) -> Generator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as one:
        yield one


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def whole(client: OpenAI, messages: Any, **options: Any) -> Said:
    completion = client.chat.completions.create(model="tiny", messages=messages, **options)
    (choice,) = completion.choices
    message: Any = choice.message
    assert completion.usage is not None
    return Said(
        reasoning=getattr(message, "reasoning", ""),
        content=message.content or "",
        finish=choice.finish_reason,
        num_completion=completion.usage.completion_tokens,
        fingerprint=completion.system_fingerprint,
        calls=[(call.function.name, call.function.arguments) for call in message.tool_calls or []],
    )


def streamed(client: OpenAI, messages: Any, **options: Any) -> tuple[Said, int]:
    """Return the answer that the chunks of a stream make, and how many brought text."""
    said, num_pieces = Said(), 0
    stream: Any = client.chat.completions.create(
        model="tiny", messages=messages, stream=True, stream_options={"include_usage": True}, **options
    )
    for chunk in stream:
        said.fingerprint = chunk.system_fingerprint
        said.num_completion = chunk.usage.completion_tokens if chunk.usage else said.num_completion
        for choice in chunk.choices:
            reasoning, content = getattr(choice.delta, "reasoning", None) or "", choice.delta.content or ""
            num_pieces += bool(reasoning or content)
            said.reasoning += reasoning
            said.content += content
            said.finish = choice.finish_reason or said.finish
    return said, num_pieces


def by_grpc(responses: Iterable[pb.ChatResponse]) -> tuple[Said, int]:
    """Return the answer that the messages of a Chat make, and how many brought text."""
    said, num_pieces = Said(), 0
    for response in responses:
        match response.WhichOneof("event"):
            case "started":
                said.fingerprint = response.started.system_fingerprint
            case "delta":
                num_pieces += bool(response.delta.reasoning or response.delta.content)
                said.reasoning += response.delta.reasoning
                said.content += response.delta.content
            case "finished":
                said.finish = pb.FinishReason.Name(response.finished.reason).removeprefix("FINISH_REASON_").lower()
            case other:
                assert other == "usage"
                said.num_completion = response.usage.num_completion_tokens
    return said, num_pieces


def sampling(options: dict[str, Any], **more: Any) -> pb.Sampling:
    return pb.Sampling(**options, **more)


def test_every_response_says_its_requests_id_once(server: Served) -> None:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=TIMEOUT_S) as one:
        for path in ("/health", "/nowhere"):
            assert len(one.get(path).headers.get_list("x-request-id")) == 1
            given = one.get(path, headers={"x-request-id": "mine-1"})
            assert given.headers.get_list("x-request-id") == ["mine-1"]


def test_the_client_is_told_of_the_model(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"


def test_a_question_is_answered_with_its_reasoning(client: OpenAI) -> None:
    said = whole(client, user(QUESTION), **GREEDY)
    assert "42" in said.content
    assert said.reasoning
    assert said.finish == "stop"
    assert said.num_completion > 3
    assert said.fingerprint


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_chat_is_the_same_whole_streamed_and_by_grpc(
    client: OpenAI, channel: grpc.Channel, options: dict[str, Any]
) -> None:
    expected = whole(client, user(QUESTION), **options)
    in_chunks, num_chunks = streamed(client, user(QUESTION), **options)
    request = pb.ChatRequest(
        model="tiny", messages=[pb.Message(role=pb.ROLE_USER, content=QUESTION)], sampling=sampling(options)
    )
    in_messages, num_messages = by_grpc(rpc.InferenceStub(channel).Chat(request, timeout=TIMEOUT_S))
    assert in_chunks == expected
    assert in_messages == expected
    assert min(num_chunks, num_messages) > 3, "what is not in pieces is no stream"


def test_a_tool_is_called_and_its_result_answered(client: OpenAI) -> None:
    """The model calls it by itself, and the call comes back in the next request."""
    messages = user("What is the weather in Lisbon?")
    asked = whole(client, messages, tools=[WEATHER_TOOL], **GREEDY)
    assert asked.finish == "tool_calls"
    assert asked.reasoning
    ((name, arguments),) = asked.calls
    assert name == "get_weather"
    assert json.loads(arguments) == {"city": "Lisbon"}
    assert streamed(client, messages, tools=[WEATHER_TOOL], **GREEDY)[0].finish == "tool_calls"

    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    messages += [
        {"role": "assistant", "reasoning": asked.reasoning, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"condition": "sunny", "temperature": 19}'},
    ]
    answered = whole(client, messages, tools=[WEATHER_TOOL], **GREEDY)
    assert (answered.finish, answered.calls) == ("stop", [])
    assert "sunny" in answered.content
    assert "19" in answered.content
    assert streamed(client, messages, tools=[WEATHER_TOOL], **GREEDY)[0].content == answered.content


def test_higher_effort_reasons_longer(client: OpenAI) -> None:
    efforts: tuple[Any, ...] = ("low", "medium", "high")
    lengths = [len(whole(client, user(QUESTION), reasoning_effort=each, **GREEDY).reasoning) for each in efforts]
    assert lengths[0] < lengths[1] < lengths[2]


def test_grpc_says_that_it_serves_and_what(client: OpenAI, channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    for service in ("", "expertmesh.inference.v1.Inference"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    (model,) = rpc.InferenceStub(channel).ListModels(pb.ListModelsRequest(), timeout=TIMEOUT_S).models
    over_http: Any = client.models.retrieve("tiny")
    assert (model.id, model.max_context_tokens) == ("tiny", over_http.max_model_len)
    assert model.system_fingerprint == whole(client, user("Hi"), **GREEDY | {"max_tokens": 4}).fingerprint


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_text_goes_on_by_grpc_as_it_does_over_http(
    client: OpenAI, channel: grpc.Channel, options: dict[str, Any]
) -> None:
    options = options | {"max_tokens": NUM_TOKENS}
    expected = continued(client, **options)
    request = pb.GenerateRequest(model="tiny", text=BEGINNING, sampling=sampling(options, ignore_eos=True))
    responses = list(rpc.InferenceStub(channel).Generate(request, timeout=TIMEOUT_S))
    ends = [response.WhichOneof("event") for response in (responses[0], *responses[-2:])]
    assert ends == ["started", "finished", "usage"]
    pieces = [response.delta.text for response in responses if response.HasField("delta")]
    assert "".join(pieces) == expected
    assert len(pieces) > 3, "what is not in pieces is no stream"
    assert responses[-1].usage.num_completion_tokens == NUM_TOKENS


def test_another_seed_gives_another_text(client: OpenAI) -> None:
    """The comparison above can fail."""
    assert len({continued(client, **SAMPLED | {"seed": seed}) for seed in range(3)}) > 1


def continued(client: OpenAI, **options: Any) -> str:
    completion = client.completions.create(model="tiny", prompt=BEGINNING, extra_body={"ignore_eos": True}, **options)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == options["max_tokens"]
    return completion.choices[0].text
