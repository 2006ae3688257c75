"""The public gRPC service, by a client generated from the proto: answers as over HTTP, statuses, keys, health."""

import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cluster.errors import ContextOverflow, EngineStopped, QueueFull
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from router.api.grpc_server import SERVICE
from router.auth import KeyRing
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import TOKENIZER, HandServer, running
from tests.router.fakes.scripts import answer, call, turn

HI = [pb.Message(role=pb.ROLE_USER, content="Hi")]
WEATHER = pb.Tool(function=pb.FunctionTool(name="get_weather", parameters_json='{"type": "object"}'))


@pytest.fixture(scope="module")
def server() -> Iterator[HandServer]:
    with running(HandBackend()) as one:
        yield one


@pytest.fixture
def stub(server: HandServer) -> Iterator[rpc.InferenceStub]:
    server.backend.__dict__.update(HandBackend().__dict__)
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield rpc.InferenceStub(channel)
    assert server.backend.num_open == 0
    assert server.service._admission.num_running == 0


def say(server: HandServer, ids: list[int], **fields: Any) -> None:
    """Let the backend give `ids` to everybody."""
    server.backend.__dict__.update({"default": ids} | fields)


def message_of(responses: list[pb.ChatResponse]) -> dict[str, Any]:
    """Return the OpenAI message that the pieces of one choice make."""
    message: dict[str, Any] = {"reasoning": "", "content": ""}
    calls: list[dict[str, str]] = []
    for response in responses:
        delta = response.delta
        message["reasoning"] += delta.reasoning
        message["content"] += delta.content
        if delta.HasField("tool_call"):
            if delta.tool_call.index == len(calls):
                calls.append({"name": delta.tool_call.name, "arguments": ""})
            calls[delta.tool_call.index]["arguments"] += delta.tool_call.arguments
    return message | {"calls": calls}


def http_message_of(server: HandServer, **body: Any) -> dict[str, Any]:
    """Return the same of the same request over HTTP."""
    request = {"messages": [{"role": "user", "content": "Hi"}]} | body
    message = httpx.post(f"{server.url}/v1/chat/completions", json=request).json()["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls", [])]
    return {"reasoning": message.get("reasoning", ""), "content": message["content"] or "", "calls": calls}


@pytest.mark.parametrize(
    ("ids", "finish"),
    [
        (answer("Hello 😀!", reasoning="A greeting."), pb.FINISH_REASON_STOP),
        (answer("Hello")[:-1], pb.FINISH_REASON_LENGTH),
        (call("get_weather", '{"city":"Ålesund"}'), pb.FINISH_REASON_TOOL_CALLS),
        (
            turn("<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant") + answer("Done."),
            pb.FINISH_REASON_STOP,
        ),
        (turn("I'm sorry.<|return|>"), pb.FINISH_REASON_STOP),
    ],
)
def test_a_chat_says_what_it_says_over_http(
    server: HandServer, stub: rpc.InferenceStub, ids: list[int], finish: pb.FinishReason
) -> None:
    say(server, ids, num_cached=2)

    responses = list(stub.Chat(pb.ChatRequest(messages=HI, tools=[WEATHER], sampling=pb.Sampling(seed=4)), timeout=20))

    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    assert message_of(responses) == http_message_of(server, tools=tools, seed=4)
    first, second = server.backend.requests[-2:]
    assert (first.prompt_ids, first.params) == (second.prompt_ids, second.params)
    started = responses[0].started
    assert (started.model, started.seed, started.system_fingerprint) == ("hand", 4, "hand")
    assert responses[-2].finished == pb.Finished(choice=0, reason=finish)
    usage = responses[-1].usage
    assert (usage.num_completion_tokens, usage.num_cached_tokens) == (len(ids), 2)
    assert usage.num_prompt_tokens == started.num_prompt_tokens == len(first.prompt_ids)


def test_a_tool_round_trip(server: HandServer, stub: rpc.InferenceStub) -> None:
    say(server, call("get_weather", "{}", reasoning="I need it."))
    called = message_of(list(stub.Chat(pb.ChatRequest(messages=HI, tools=[WEATHER]), timeout=20)))
    say(server, answer("Sunny."))
    back = pb.Message(
        role=pb.ROLE_ASSISTANT,
        reasoning=called["reasoning"],
        tool_calls=[pb.ToolCall(id="c1", name="get_weather", arguments="{}")],
    )
    result = pb.Message(role=pb.ROLE_TOOL, tool_call_id="c1", content="sunny")

    said = message_of(list(stub.Chat(pb.ChatRequest(messages=[*HI, back, result], tools=[WEATHER]), timeout=20)))

    assert said["content"] == "Sunny."
    prompt = TOKENIZER.decode(server.backend.requests[-1].prompt_ids)
    assert "analysis<|message|>I need it.<|end|>" in prompt
    assert "functions.get_weather to=assistant<|channel|>commentary<|message|>sunny<|end|>" in prompt


def test_every_field_of_a_chat_arrives(server: HandServer, stub: rpc.InferenceStub) -> None:
    say(server, turn("<|channel|>analysis to=python code<|message|>print(1)<|call|>"))
    request = pb.ChatRequest(
        model="hand",
        messages=[pb.Message(role=pb.ROLE_SYSTEM, content="Be brief."), *HI],
        tools=[pb.Tool(python=pb.PythonTool())],
        tool_choice=pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED),
        reasoning_effort="xhigh",
        response_format=pb.ResponseFormat(name="a", schema_json='{"type": "object"}'),
        sampling=pb.Sampling(
            max_tokens=50, seed=-9, temperature=0.5, top_p=0.5, top_k=3, min_p=0.125, presence_penalty=0.25,
            frequency_penalty=0.5, repetition_penalty=1.5, logit_bias={7: -1.0}, stop=["zzz"], stop_token_ids=[3],
            min_tokens=1, num_choices=2, num_logprobs=1,
        ),
    )  # fmt: skip

    responses = list(stub.Chat(request, timeout=20))

    assert [note for note in responses[0].started.notes if "xhigh is served as high" in note]
    assert message_of([one for one in responses if one.delta.choice == 1])["calls"][0]["name"] == "python"
    params = server.backend.requests[-1].params
    assert (params.max_tokens, params.seed, params.temperature, params.top_p, params.top_k) == (50, -9, 0.5, 0.5, 3)
    assert (params.min_p, params.presence_penalty, params.frequency_penalty) == (0.125, 0.25, 0.5)
    assert (params.repetition_penalty, params.logit_bias, params.min_tokens) == (1.5, ((7, -1.0),), 1)
    assert (params.num_logprobs, params.choice) == (1, 1)
    assert 3 in params.stop_token_ids
    prompt = TOKENIZER.decode(server.backend.requests[-1].prompt_ids)
    assert "Reasoning: high" in prompt
    assert "Be brief." in prompt
    assert '# Response Formats\n\n## a\n\n{"type":"object"}' in prompt
    constraint = server.backend.requests[-1].constraint
    assert constraint is not None
    headers = [TOKENIZER.decode(header) for shape in constraint.shapes for header in shape.headers]
    assert headers == [
        "<|channel|>analysis<|message|>",
        "<|channel|>analysis to=python code<|message|>",
        " to=python<|channel|>analysis code<|message|>",
    ]


@pytest.mark.parametrize(
    ("structure", "origin"),
    [
        (pb.Structure(json_schema='{"type": "integer"}'), "structured_outputs.json"),
        (pb.Structure(json_object=True), "structured_outputs.json_object"),
        (pb.Structure(regex="a+"), "structured_outputs.regex"),
        (pb.Structure(choices=pb.Choices(texts=["a", "b"])), "structured_outputs.choice"),
        (pb.Structure(grammar='start: "a"'), "structured_outputs.grammar"),
    ],
)
def test_a_structure_holds_texts_and_answers(
    server: HandServer, stub: rpc.InferenceStub, structure: pb.Structure, origin: str
) -> None:
    say(server, answer("a"))
    sampling = pb.Sampling(structure=structure)

    list(stub.Chat(pb.ChatRequest(messages=HI, sampling=sampling), timeout=20))
    list(stub.Generate(pb.GenerateRequest(text="Say", sampling=sampling), timeout=20))

    for request in server.backend.requests:
        assert request.constraint is not None
        assert request.constraint.origin == origin


def test_generate_continues_text_and_ids(server: HandServer, stub: rpc.InferenceStub) -> None:
    say(server, turn("Hi 😀"))
    sampling = pb.Sampling(num_logprobs=1, max_tokens=9, ignore_eos=True)

    by_text = list(stub.Generate(pb.GenerateRequest(text="Say", sampling=sampling), timeout=20))
    list(stub.Generate(pb.GenerateRequest(token_ids=pb.TokenIds(ids=[200_006, 5])), timeout=20))

    assert "".join(one.delta.text for one in by_text) == "Hi 😀"
    ids = [token_id for one in by_text for token_id in one.delta.token_ids]
    assert ids == [one.token_id for response in by_text for one in response.delta.logprobs] == TOKENIZER.encode("Hi 😀")
    assert by_text[-2].finished.reason == pb.FINISH_REASON_LENGTH
    assert [one.params.ignore_eos for one in server.backend.requests] == [True, False]
    assert [one.prompt_ids for one in server.backend.requests] == [tuple(TOKENIZER.encode("Say")), (200_006, 5)]


def test_models_and_tokens(stub: rpc.InferenceStub) -> None:
    models = stub.ListModels(pb.ListModelsRequest(), timeout=20).models
    assert [(model.id, model.max_context_tokens, model.system_fingerprint) for model in models] == [
        ("hand", 3072, "hand")
    ]

    ids = stub.Tokenize(pb.TokenizeRequest(text="Grüße <|end|>"), timeout=20).token_ids
    assert list(ids) == TOKENIZER.encode("Grüße <|end|>")
    assert stub.Detokenize(pb.DetokenizeRequest(token_ids=ids), timeout=20).text == "Grüße <|end|>"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Detokenize(pb.DetokenizeRequest(token_ids=[999_999]), timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        (pb.ChatRequest(messages=HI, model="gpt-4"), grpc.StatusCode.NOT_FOUND, "model"),
        (pb.ChatRequest(), grpc.StatusCode.INVALID_ARGUMENT, "messages"),
        (pb.ChatRequest(messages=[pb.Message(content="x")]), grpc.StatusCode.INVALID_ARGUMENT, "messages[0].role"),
        (pb.ChatRequest(messages=HI, sampling=pb.Sampling(top_p=2)), grpc.StatusCode.INVALID_ARGUMENT, "top_p"),
        (
            pb.ChatRequest(messages=HI, sampling=pb.Sampling(num_choices=10**9)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "n",
        ),
        (
            pb.ChatRequest(messages=HI, sampling=pb.Sampling(temperature=float("nan"))),
            grpc.StatusCode.INVALID_ARGUMENT,
            "temperature",
        ),
        (
            pb.ChatRequest(messages=HI, tools=[pb.Tool(function=pb.FunctionTool(name="f", parameters_json="{"))]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "tools[0].function.parameters_json",
        ),
    ],
    ids=["model", "messages", "role", "top_p", "n", "nan", "schema"],
)
def test_a_bad_request_is_a_status_that_names_the_field(
    stub: rpc.InferenceStub, request_: pb.ChatRequest, code: grpc.StatusCode, param: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Chat(request_, timeout=20))

    assert caught.value.code() is code
    metadata: Any = caught.value.trailing_metadata()
    assert dict(metadata)["expertmesh-error-param"] == param


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFull("10.1.2.3 full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (ContextOverflow("too long"), grpc.StatusCode.INVALID_ARGUMENT),
        (EngineStopped("10.1.2.3"), grpc.StatusCode.UNAVAILABLE),
        (RuntimeError("/secret"), grpc.StatusCode.INTERNAL),
    ],
)
def test_an_error_is_a_status_and_leaks_nothing(
    server: HandServer, stub: rpc.InferenceStub, error: Exception, code: grpc.StatusCode
) -> None:
    say(server, answer("A"), error=error, fails_after=2)

    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Chat(pb.ChatRequest(messages=HI), timeout=20))

    assert caught.value.code() is code
    assert "10.1.2.3" not in str(caught.value.details())
    assert "/secret" not in str(caught.value.details())


def test_cancelling_a_call_aborts_its_sequences(server: HandServer, stub: rpc.InferenceStub) -> None:
    say(server, answer("word " * 200), delay_s=0.05)

    responses = stub.Chat(pb.ChatRequest(messages=HI, sampling=pb.Sampling(num_choices=2)), timeout=20)
    assert next(responses).HasField("started")
    assert next(responses).HasField("delta")
    responses.cancel()

    assert _wait_for_aborts(server, 2)


def test_a_deadline_that_passes_aborts_its_sequences(server: HandServer, stub: rpc.InferenceStub) -> None:
    say(server, answer("word " * 200), delay_s=0.05)

    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Chat(pb.ChatRequest(messages=HI), timeout=0.5))

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert _wait_for_aborts(server, 1)


METHODS = {
    "Chat": pb.ChatRequest(messages=HI),
    "Generate": pb.GenerateRequest(text="x"),
    "ListModels": pb.ListModelsRequest(),
    "Tokenize": pb.TokenizeRequest(text="x"),
    "Detokenize": pb.DetokenizeRequest(token_ids=[1]),
}


@pytest.fixture(scope="module")
def locked() -> Iterator[grpc.Channel]:
    """A channel to a server that asks for a key."""
    with (
        running(HandBackend(answer("A")), keys=KeyRing(["secret-1"])) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        yield channel


@pytest.mark.parametrize("method", [method.name for method in pb.DESCRIPTOR.services_by_name["Inference"].methods])
def test_every_method_asks_for_a_key(locked: grpc.Channel, method: str) -> None:
    ask: Any = getattr(rpc.InferenceStub(locked), method)

    def call_with(*metadata: tuple[str, str]) -> None:
        answered: Any = ask(METHODS[method], metadata=metadata, timeout=20)
        if method in ("Chat", "Generate"):
            list(answered)

    for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "secret-1"),)):
        with pytest.raises(grpc.RpcError) as caught:
            call_with(*metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    call_with(("authorization", "Bearer secret-1"))


def test_a_key_has_computed_prefixes_of_its_own() -> None:
    keys = KeyRing(["secret-1"])
    with (
        running(HandBackend(answer("A")), keys=keys) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub: Any = rpc.InferenceStub(channel)
        for method in ("Chat", "Generate", "Chat"):
            metadata = (("authorization", "Bearer secret-1"),)
            list(getattr(stub, method)(METHODS[method], metadata=metadata, timeout=20))
        assert [one.cache_salt for one in server.backend.requests] == [keys.check("Bearer secret-1")] * 3


def test_reflection_asks_for_a_key_and_health_does_not(locked: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(locked)

    with pytest.raises(grpc.RpcError) as caught:
        ProtoReflectionDescriptorDatabase(locked).get_services()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_describes_the_service(server: HandServer) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        found = DescriptorPool(database).FindServiceByName(SERVICE)

    assert {method.name for method in found.methods} == {"Generate", "Chat", "ListModels", "Tokenize", "Detokenize"}


def test_a_schema_goes_through_unchanged(server: HandServer, stub: rpc.InferenceStub) -> None:
    """As text, not as protobuf's Struct, which has no integers and no order."""
    say(server, answer("A"))
    schema = {"type": "object", "properties": {"z": {"enum": [1, 2]}, "a": {"const": 9007199254740993}}}
    tool = pb.Tool(function=pb.FunctionTool(name="f", parameters_json=json.dumps(schema)))

    list(stub.Chat(pb.ChatRequest(messages=HI, tools=[tool]), timeout=20))

    prompt = TOKENIZER.decode(server.backend.requests[-1].prompt_ids)
    assert "type f = (_: {\nz?: 1 | 2,\na?: 9007199254740993,\n}) => any;" in prompt


def _wait_for_aborts(server: HandServer, num_wanted: int) -> bool:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        if len(server.backend.aborted) == num_wanted and server.service._admission.num_running == 0:
            return True
        time.sleep(0.01)
    return False
