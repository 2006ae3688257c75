"""`expertmesh chat`: one conversation with a running server; and the printing of an answer as it is written."""

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from router.cli_errors import CliError
from router.cli_options import DEFAULT_URL, ApiKey, Url

if TYPE_CHECKING:
    from router.chat_session import ChatSession
    from router.cli_client import ChatDelta


def chat(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which model to talk to.", show_default="the first that the server lists"),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told before the conversation.")
    ] = None,
    effort: Annotated[
        Literal["low", "medium", "high"] | None,
        typer.Option(help="How long it may reason.", show_default="the server's"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="The same seed and question give the same answer.")
    ] = None,
) -> None:
    """Talk to a running server, of Expertmesh or any other that speaks OpenAI's API.

    A line is a message. Ctrl-C stops an answer; /quit or Ctrl-D ends; /help shows the other commands.

    Example: `expertmesh chat --url http://127.0.0.1:8000 --effort high`
    """
    from router.chat_lines import line_reader
    from router.chat_session import ChatSession
    from router.cli_client import ServerClient

    console = Console(highlight=False)
    options: dict[str, Any] = {"reasoning_effort": effort, "seed": seed}
    options = {name: value for name, value in options.items() if value is not None}
    with ServerClient(url, api_key) as client:
        name = model or client.model_name()
        session = ChatSession(client, name, system, options)
        if sys.stdin.isatty():
            console.print(f"Talking to {name} at {client.url}. /help shows what can be typed.", style="dim")
            _talk(console, session, line_reader(console))
        else:
            _answer_all(console, session, line_reader(console))


def _talk(console: Console, session: "ChatSession", next_line: Callable[[], str | None]) -> None:
    """Go on until the user ends it: what goes wrong with one message is one line, and no end."""
    was_interrupted = False
    while not session.has_ended:
        try:
            console.print()
            line = next_line()
        except KeyboardInterrupt:
            if was_interrupted:
                return
            was_interrupted = True
            console.print("\nTo end, type /quit, or press Ctrl-D or Ctrl-C again.", style="dim")
            continue
        was_interrupted = False
        if line is None:
            console.print()
            return
        try:
            _take(console, session, line)
        except CliError as error:
            console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)


def _answer_all(console: Console, session: "ChatSession", next_line: Callable[[], str | None]) -> None:
    """Answer each line of a pipe; the first that fails ends the command."""
    while not session.has_ended and (line := next_line()) is not None:
        _take(console, session, line)


def _take(console: Console, session: "ChatSession", line: str) -> None:
    """Do one line: nothing, a command, or a message."""
    said = session.command(line) if line else ""
    if said is not None:
        if said:
            console.print(said, style="dim", markup=False)
        return
    content: list[str] = []
    try:
        print_answer(console, _kept(session.ask(line), content))
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        console.print("\n(stopped)", style="dim")
    finally:
        session.answered("".join(content))


def _kept(deltas: "Iterator[ChatDelta]", content: list[str]) -> "Iterator[ChatDelta]":
    """Yield the pieces of an answer and keep their text, so that a beginning is not lost."""
    for delta in deltas:
        content.append(delta.content)
        yield delta


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
