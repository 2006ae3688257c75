"""ChatSession: one conversation with a server, turn by turn, and the commands that a user may type in it.

It knows nothing of the terminal: lines go in, what to say or to ask comes out.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from router.cli_errors import CliError

if TYPE_CHECKING:
    from router.cli_client import ChatDelta, Message, ServerClient

EFFORTS = ("low", "medium", "high")
HELP = """\
/effort low|medium|high   how long the model may reason
/clear                    forget the conversation
/help                     show this
/quit, /exit, Ctrl-D      end
Ctrl-C stops an answer. A line that begins with // is sent with one slash."""


class CommandRefused(CliError):
    """A line that begins with a slash is no command; the message says what may be typed."""


class ChatSession:
    """The messages so far, and what is asked for with the next."""

    def __init__(self, client: "ServerClient", model: str, system: str | None, options: dict[str, Any]) -> None:
        """Talk to `model`; `options` are further fields of each request."""
        self.options = options
        self.has_ended = False
        self._client = client
        self._model = model
        self._opening: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages: list[Message] = list(self._opening)

    def command(self, line: str) -> str | None:
        """Do what a command says and return what to tell the user; None if the line is a message.

        Raises CommandRefused.
        """
        if not line.startswith("/") or line.startswith("//"):
            return None
        name, _, argument = line.partition(" ")
        match name:
            case "/quit" | "/exit":
                self.has_ended = True
                return ""
            case "/help":
                return HELP
            case "/clear":
                self._messages = list(self._opening)
                return "The conversation is forgotten."
            case "/effort":
                return self._set_effort(argument.strip())
            case _:
                raise CommandRefused(f"there is no command {name}; /help shows those that there are")

    def ask(self, line: str) -> "Iterator[ChatDelta]":
        """Send a message and return its answer's pieces; `answered` is to be told what became of them."""
        self._messages.append({"role": "user", "content": line[1:] if line.startswith("//") else line})
        return self._client.chat(self._model, self._messages, self.options)

    def answered(self, content: str) -> None:
        """Keep an answer, or the beginning of one; a question without any is taken back."""
        if content:
            self._messages.append({"role": "assistant", "content": content})
        else:
            self._messages.pop()

    def _set_effort(self, effort: str) -> str:
        if effort and effort not in EFFORTS:
            raise CommandRefused(f"/effort is low, medium or high, not {effort!r}")
        if effort:
            self.options["reasoning_effort"] = effort
        return f"Reasoning effort: {self.options.get('reasoning_effort', 'as the server chooses')}."
