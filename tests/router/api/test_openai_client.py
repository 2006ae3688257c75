"""The official openai client, unmodified, against the whole server on loopback; tokens come from a script."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from cluster.errors import ContextOverflow, EngineStopped, QueueFull
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import TOKENIZER, HandServer, running
from tests.router.fakes.scripts import answer, call, turn

HI: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


@pytest.fixture(scope="module")
def server() -> Iterator[HandServer]:
    with running(HandBackend()) as one:
        yield one


@pytest.fixture
def client(server: HandServer) -> Iterator[OpenAI]:
    server.backend.__dict__.update(HandBackend().__dict__)
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one
    assert server.backend.num_open == 0
    assert server.service._admission.num_running == 0


def say(server: HandServer, ids: list[int], **fields: Any) -> None:
    """Let the backend give `ids` to everybody."""
    server.backend.__dict__.update({"default": ids} | fields)


def folded(client: OpenAI, **request: Any) -> dict[str, Any]:
    """Return a stream as the message that its pieces make, with finish reason, usage and logprobs."""
    message: dict[str, Any] = {}
    result: dict[str, Any] = {"logprobs": []}
    stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        if chunk.usage is not None:
            result["usage"] = chunk.usage.model_dump()
        for choice in chunk.choices:
            piece = choice.delta.model_dump(exclude_unset=True)
            for one in piece.pop("tool_calls", None) or []:
                calls = message.setdefault("tool_calls", [])
                if one["index"] == len(calls):
                    calls.append({key: value for key, value in one.items() if key != "index"})
                else:
                    calls[one["index"]]["function"]["arguments"] += one["function"]["arguments"]
            for name, value in piece.items():
                message[name] = value if name == "role" else (message.get(name) or "") + value
            result["logprobs"] += choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
            result["finish_reason"] = choice.finish_reason or result.get("finish_reason")
    return result | {"message": message}


def whole(client: OpenAI, **request: Any) -> dict[str, Any]:
    """Return the same of a request without a stream."""
    completion = client.chat.completions.create(**request)
    choice = completion.choices[0]
    message = choice.message.model_dump(exclude_unset=True)
    logprobs = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    assert completion.usage is not None
    usage = completion.usage.model_dump()
    return {"message": message, "finish_reason": choice.finish_reason, "usage": usage, "logprobs": logprobs}


def test_a_plain_answer(server: HandServer, client: OpenAI) -> None:
    say(server, answer("Hello!", reasoning="A greeting."))

    completion = client.chat.completions.create(model="hand", messages=HI)

    assert completion.choices[0].message.content == "Hello!"
    assert completion.choices[0].message.model_dump()["reasoning"] == "A greeting."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.system_fingerprint == "hand"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == len(answer("Hello!", reasoning="A greeting."))
    assert completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens_details.reasoning_tokens == len(TOKENIZER.encode("A greeting."))


def test_a_stream_comes_in_pieces_as_they_are_made(server: HandServer, client: OpenAI) -> None:
    say(server, answer("One two three."))

    stream = client.chat.completions.create(model="hand", messages=HI, stream=True)

    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
    assert pieces == ["One", " two", " three", "."]


TURNS: dict[str, list[int]] = {
    "answer": answer("Hello 😀!"),
    "call": call("get_weather", '{"city": "Ålesund 😀"}'),
    "preamble and call": turn("<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant")
    + call("get_weather", "{}"),
    "preamble and answer": turn("<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant") + answer("Done."),
    "two thoughts": turn("<|channel|>analysis<|message|>One.<|end|><|start|>assistant") + answer("Done."),
    "two calls": call("get_weather", "{}")[:-1] + turn("<|end|><|start|>assistant") + call("get_weather", '{"a": 1}'),
    "reasoning only": turn("<|channel|>analysis<|message|>Hm.<|return|>"),
    "refusal without a header": turn("I'm sorry.<|return|>"),
    "cut in reasoning": turn("<|channel|>analysis<|message|>Hm. Let me"),
    "cut in a call": turn('<|channel|>commentary to=functions.get_weather<|message|>{"ci'),
    "unknown tool": call("fly", "{}"),
    "python": turn('<|channel|>analysis to=python code<|message|>print("x")\n<|call|>'),
    "broken arguments": call("get_weather", "{'city': Oslo]]"),
    "empty answer": answer(""),
    "nothing": turn("<|return|>"),
}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("stop", [None, ["nev", "t me"]])
def test_a_stream_says_what_a_whole_answer_says(
    server: HandServer, client: OpenAI, name: str, size: int, stop: list[str] | None
) -> None:
    say(server, TURNS[name], tokens_per_event=size)
    tools = [*TOOLS, {"type": "python"}]
    request = {"model": "hand", "messages": HI, "tools": tools, "logprobs": True, "top_logprobs": 2, "stop": stop}

    streamed, complete = folded(client, **request), whole(client, **request)

    for message in (streamed["message"], complete["message"]):
        for one in message.get("tool_calls", []):
            assert one.pop("id").startswith("call_")
        message.setdefault("content", None)
    assert streamed == complete


def test_several_messages_are_paragraphs_of_one(server: HandServer, client: OpenAI) -> None:
    begin, again = (
        "<|channel|>analysis<|message|>One.<|end|>",
        "<|start|>assistant<|channel|>commentary<|message|>Wait.<|end|>",
    )
    say(server, turn(begin + again + "<|start|>assistant") + answer("Done.", reasoning="Two."))

    message = client.chat.completions.create(model="hand", messages=HI).choices[0].message

    assert message.content == "Wait.\n\nDone."
    assert message.model_dump()["reasoning"] == "One.\n\nTwo."


def test_a_tool_round_trip(server: HandServer, client: OpenAI) -> None:
    say(server, call("get_weather", '{"city":"Oslo"}', reasoning="I need the weather."))
    first = client.chat.completions.create(model="hand", messages=HI, tools=TOOLS)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    called: Any = message.tool_calls[0]
    assert (called.function.name, called.function.arguments) == ("get_weather", '{"city":"Oslo"}')

    say(server, answer("It is sunny."))
    result: Any = {"role": "tool", "tool_call_id": called.id, "content": "sunny"}
    second = client.chat.completions.create(model="hand", messages=[*HI, message, result], tools=TOOLS)  # pyright: ignore[reportArgumentType]

    assert second.choices[0].message.content == "It is sunny."
    prompt = TOKENIZER.decode(server.backend.requests[-1].prompt_ids)
    assert prompt.endswith(
        "<|start|>assistant<|channel|>analysis<|message|>I need the weather.<|end|>"
        "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
        '{"city":"Oslo"}<|call|><|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>sunny<|end|>'
        "<|start|>assistant"
    )


def test_a_python_round_trip(server: HandServer, client: OpenAI) -> None:
    say(server, turn("<|channel|>analysis to=python code<|message|>print(6*7)<|call|>"))
    tools: Any = [{"type": "code_interpreter"}]
    first = client.chat.completions.create(model="hand", messages=HI, tools=tools)
    message = first.choices[0].message
    assert message.tool_calls is not None
    called: Any = message.tool_calls[0]
    assert (called.function.name, called.function.arguments) == ("python", '{"code": "print(6*7)"}')

    say(server, answer("42"))
    result: Any = {"role": "tool", "tool_call_id": called.id, "content": "42\n"}
    client.chat.completions.create(model="hand", messages=[*HI, message, result], tools=tools)  # pyright: ignore[reportArgumentType]

    prompt = TOKENIZER.decode(server.backend.requests[-1].prompt_ids)
    assert "assistant to=python<|channel|>analysis code<|message|>print(6*7)<|call|>" in prompt
    assert "<|start|>python to=assistant<|channel|>analysis<|message|>42\n<|end|>" in prompt


def test_choices_are_told_apart(server: HandServer, client: OpenAI) -> None:
    say(server, [], script={0: answer("A"), 1: answer("B"), 2: answer("C")})

    completion = client.chat.completions.create(model="hand", messages=HI, n=3, seed=5)
    assert [choice.message.content for choice in completion.choices] == ["A", "B", "C"]
    assert completion.model_dump()["seed"] == 5

    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model="hand", messages=HI, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["A", "B", "C"]


def test_parameters_reach_the_engine(server: HandServer, client: OpenAI) -> None:
    say(server, answer("A"))

    client.chat.completions.create(
        model="hand-alias",
        messages=HI,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        logit_bias={"5": -100},
        max_completion_tokens=77,
        seed=-1,
        logprobs=True,
        top_logprobs=3,
        extra_body={"top_k": 7, "min_p": 0.01, "repetition_penalty": 1.1, "stop_token_ids": [9], "min_tokens": 2},
    )

    params = server.backend.requests[-1].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 7, 0.01)
    penalties = (params.presence_penalty, params.frequency_penalty, params.repetition_penalty)
    assert penalties == (0.1, -0.2, 1.1)
    assert (params.logit_bias, params.max_tokens, params.seed) == (((5, -100.0),), 77, -1)
    assert (params.num_logprobs, params.min_tokens) == (3, 2)
    assert set(params.stop_token_ids) == {200_002, 200_012, 9}


def test_effort_and_format_and_instructions_reach_the_prompt(server: HandServer, client: OpenAI) -> None:
    say(server, answer("{}"))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    response_format: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}

    client.chat.completions.create(
        model="hand",
        messages=[{"role": "system", "content": "Be brief."}, *HI, {"role": "developer", "content": "Now French."}],
        reasoning_effort="high",
        response_format=response_format,
    )

    prompt = TOKENIZER.decode(server.backend.requests[-1].prompt_ids)
    assert "Reasoning: high" in prompt
    assert "Current date: 2026-11-22" in prompt
    assert prompt.index("Be brief.") < prompt.index("# Response Formats\n\n## a") < prompt.index("Now French.")


def test_completions(server: HandServer, client: OpenAI) -> None:
    say(server, turn("Hi there 😀"))

    one = client.completions.create(model="hand", prompt="Say", max_tokens=10, logprobs=2)
    assert one.choices[0].text == "Hi there 😀"
    assert one.choices[0].logprobs is not None
    assert one.choices[0].logprobs.tokens == ["Hi", " there", " 😀"]
    assert one.choices[0].logprobs.text_offset == [0, 2, 8]
    assert one.choices[0].finish_reason == "length"
    assert server.backend.requests[-1].prompt_ids == tuple(TOKENIZER.encode("Say"))

    stream = client.completions.create(model="hand", prompt=[1, 2, 3], stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == TOKENIZER.decode([1, 2, 3]) + "Hi there 😀"
    assert server.backend.requests[-1].params.max_tokens == 16

    several = client.completions.create(model="hand", prompt=["a", "b"], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def test_text_of_a_completion_is_never_control_tokens(server: HandServer, client: OpenAI) -> None:
    say(server, turn("x"))

    client.completions.create(model="hand", prompt="<|start|>system")

    assert max(server.backend.requests[-1].prompt_ids) < 199_998


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["hand"]
    assert client.models.retrieve("hand").owned_by == "expertmesh"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (QueueFull("10.1.2.3:4 full"), openai.RateLimitError, "server_overloaded"),
        (ContextOverflow("the prompt has 9 tokens"), openai.BadRequestError, "context_length_exceeded"),
        (EngineStopped("10.1.2.3:4"), openai.InternalServerError, "unavailable"),
        (RuntimeError("/secret 0x7f00"), openai.InternalServerError, "internal_error"),
    ],
)
@pytest.mark.parametrize("is_streaming", [False, True])
def test_an_early_error_is_a_status_and_leaks_nothing(
    server: HandServer,
    client: OpenAI,
    error: Exception,
    kind: type[openai.APIStatusError],
    code: str,
    is_streaming: bool,
) -> None:
    say(server, answer("A"), error=error)

    with pytest.raises(kind) as caught:
        client.chat.completions.create(model="hand", messages=HI, stream=is_streaming)

    assert caught.value.code == code
    assert caught.value.response.headers["x-request-id"]
    for secret in ("10.1.2.3", "/secret", "0x", "Traceback"):
        assert secret not in caught.value.response.text


def test_a_late_error_comes_inside_of_the_stream(server: HandServer, client: OpenAI) -> None:
    say(server, answer("One two three."), error=EngineStopped("10.1.2.3"), fails_after=13)
    stream = client.chat.completions.create(model="hand", messages=HI, stream=True)
    pieces = (chunk.choices[0].delta.content for chunk in stream)
    first = next(piece for piece in pieces if piece)

    with pytest.raises(openai.APIError) as caught:
        list(pieces)

    assert first == "One"
    assert caught.value.code == "unavailable"
    assert "10.1.2.3" not in str(caught.value)


@pytest.mark.parametrize("fold", [folded, whole])
def test_without_parallel_calls_the_turn_ends_with_the_first(server: HandServer, client: OpenAI, fold: Any) -> None:
    say(server, TURNS["two calls"])
    request = {"model": "hand", "messages": HI, "tools": TOOLS}

    assert len(fold(client, **request)["message"]["tool_calls"]) == 2
    only = fold(client, **request, parallel_tool_calls=False)
    assert len(only["message"]["tool_calls"]) == 1
    assert only["finish_reason"] == "tool_calls"
