"""`expertmesh chat`: one conversation with a running server; and the printing of an answer as it is written."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from router.cli_options import DEFAULT_URL, ApiKey, Url

if TYPE_CHECKING:
    from router.cli_client import ChatDelta, Message


def chat(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    effort: Annotated[str | None, typer.Option(help="How long it may reason: low, medium or high.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed and question give the same answer.")] = None,
) -> None:
    """Talk to a running server. A line is a message; an empty line or Ctrl-D ends."""
    from router.cli_client import ServerClient

    console = Console(highlight=False)
    options: dict[str, Any] = {"reasoning_effort": effort, "seed": seed}
    options = {name: value for name, value in options.items() if value is not None}
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    with ServerClient(url, api_key) as client:
        model = client.model_name()
        for question in _questions(console, model):
            messages.append({"role": "user", "content": question})
            answer = print_answer(console, client.chat(model, messages, options))
            messages.append({"role": "assistant", "content": answer})


def print_answer(console: Console, deltas: "Iterator[ChatDelta]") -> str:
    """Print an answer as it comes, reasoning in dim letters, and return its content."""
    content = ""
    has_reasoned = False
    finish_reason = None
    for delta in deltas:
        if delta.reasoning:
            has_reasoned = True
            _write(console, delta.reasoning, "dim")
        if delta.content:
            if has_reasoned and not content:
                console.print("\n")
            content += delta.content
            _write(console, delta.content, None)
        finish_reason = delta.finish_reason or finish_reason
    console.print()
    if finish_reason == "length":
        console.print("(cut off at the longest answer that was allowed)", style="dim")
    return content


def _write(console: Console, text: str, style: str | None) -> None:
    """Write text as it is: no markup, no wrapping that a next piece would break."""
    console.print(text, style=style, end="", markup=False, highlight=False, soft_wrap=True)


def _questions(console: Console, model: str) -> Iterator[str]:
    """Yield the lines that are typed, or piped in, until the first empty one."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        console.print(f"Talking to {model}; an empty line ends.", style="dim")
    while True:
        if is_terminal:
            console.print("\n> ", end="", style="bold")
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line
