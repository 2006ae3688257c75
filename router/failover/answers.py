"""What clients get: each answer put together from its stream, and when its pieces came."""

import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from router.failover.questions import Question

ANSWER_TIMEOUT_S = 180.0
_LISTS = ("content", "tokens", "token_logprobs", "top_logprobs", "text_offset")
"""What logprobs are made of, in chats and in completions."""

Choice = dict[str, Any]
"""What is compared: text, reasoning, tool calls without their ids, logprobs of every token, finish reason."""


@dataclass(slots=True)
class Answer:
    """What became of one question."""

    choices: dict[int, Choice] = field(default_factory=dict[int, Choice])
    arrivals_s: list[float] = field(default_factory=list[float])
    """When each piece of a stream came, by the monotonic clock."""
    ended_s: float = 0.0
    error: str | None = None
    """What a client would report; None after a whole answer."""


def ask_all(url: str, model: str, asked: Sequence[Question]) -> list[Answer]:
    """Ask all questions at once, each over a connection of its own, and return the answers in their order."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    with (
        httpx.Client(base_url=url, trust_env=False, timeout=ANSWER_TIMEOUT_S, limits=limits) as client,
        ThreadPoolExecutor(len(asked)) as pool,
    ):
        return list(pool.map(lambda question: ask(client, model, question), asked))


def ask(client: httpx.Client, model: str, question: Question) -> Answer:
    """Ask one question; whatever keeps it from being answered is the answer's error."""
    answer = Answer()
    body = {"model": model, **question.body}
    try:
        if question.is_stream:
            with client.stream("POST", question.path, json=body) as response:
                _take_stream(answer, response)
        else:
            _take_whole(answer, client.post(question.path, json=body))
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended_s = time.monotonic()
    if answer.error is None and not answer.choices:
        answer.error = "an answer without a choice"
    return answer


def _take_whole(answer: Answer, response: httpx.Response) -> None:
    if not response.is_success:
        answer.error = f"{response.status_code}: {response.text[:200]}"
        return
    for choice in response.json()["choices"]:
        _add(answer, choice, choice.get("message", {}))


def _take_stream(answer: Answer, response: httpx.Response) -> None:
    if not response.is_success:
        answer.error = f"{response.status_code}: {response.read().decode()[:200]}"
        return
    is_whole = False
    for event in _events(response.iter_lines()):
        if event == "[DONE]":
            is_whole = True
            continue
        said = json.loads(event)
        if "error" in said:
            answer.error = str(said["error"])[:200]
            return
        answer.arrivals_s.append(time.monotonic())
        for choice in said["choices"]:
            _add(answer, choice, choice.get("delta", {}))
    if not is_whole:
        answer.error = "the stream broke off"


def _events(lines: Iterable[str]) -> Iterable[str]:
    return (line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def _add(answer: Answer, choice: dict[str, Any], message: dict[str, Any]) -> None:
    """Append a piece, or a whole choice, to what has been said."""
    empty: Choice = {"text": "", "reasoning": "", "calls": {}, "logprobs": {}, "finish_reason": None}
    so_far = answer.choices.setdefault(choice["index"], empty)
    so_far["text"] += choice.get("text") or message.get("content") or ""
    so_far["reasoning"] += message.get("reasoning") or message.get("reasoning_content") or ""
    for place, call in enumerate(message.get("tool_calls") or []):
        kept = so_far["calls"].setdefault(call.get("index", place), {"name": "", "arguments": ""})
        kept["name"] += call["function"].get("name") or ""
        kept["arguments"] += call["function"].get("arguments") or ""
    logprobs = choice.get("logprobs") or {}
    for key in _LISTS:
        so_far["logprobs"].setdefault(key, []).extend(logprobs.get(key) or [])
    so_far["finish_reason"] = choice.get("finish_reason") or so_far["finish_reason"]
