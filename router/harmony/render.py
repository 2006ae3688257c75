"""The renderer: a conversation to the token ids of its prompt.

    system                     identity, date, effort, built-in tools, channels
    developer                  instructions, functions, response format, in this order; left out when empty
    user, assistant, tools …   later system and developer messages where they stand
    <|start|>assistant

Every text of the client is encoded as ordinary text: a `<|end|>` in it is seven characters. Only this file puts
control tokens into a prompt.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from cluster.grammar.constraint import Constraint
from model.tokenizer import Tokenizer
from model.vocabulary import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START
from router.harmony.conversation import (
    AssistantTurn,
    Conversation,
    InstructionTurn,
    ResponseFormat,
    ToolCall,
    ToolMode,
    ToolTurn,
    Turn,
    UserTurn,
)
from router.harmony.functions import functions_text
from router.harmony.history import visible_turns
from router.harmony.recipients import PYTHON
from router.harmony.system import system_ids
from router.structured.turn import turn_constraint


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine computes first, and where the answer stops."""

    token_ids: tuple[int, ...]
    constraint: Constraint | None = None
    """What the answer is held to."""
    stop_ids: tuple[int, ...] = (RETURN, CALL)
    num_given: int = 0
    """Output tokens that the constraint gives: the rest of a prompt whose logprobs are wanted."""

    @property
    def num_tokens(self) -> int:
        """Return how many tokens the client gave."""
        return len(self.token_ids) + self.num_given


class Renderer:
    """Renders conversations with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def render(self, conversation: Conversation, date: str) -> Prompt:
        """Return the prompt; `date` (YYYY-MM-DD) goes into the system message.

        Raises InvalidRequest for a tool's schema that cannot be rendered, TokenizerError for text without tokens.
        """
        offers_tools = conversation.tool_mode is not ToolMode.NONE
        has_python = conversation.has_python and offers_tools
        has_functions = bool(conversation.functions) and offers_tools
        python_name = PYTHON if conversation.has_python else None
        turns = visible_turns(conversation.turns, python_name)
        ids = list(system_ids(conversation.effort, date, has_python, has_functions))
        num_leading = next((at for at, turn in enumerate(turns) if not isinstance(turn, InstructionTurn)), len(turns))
        ids += self._developer(conversation, turns[:num_leading], has_functions)
        for turn in turns[num_leading:]:
            ids += self._turn(turn, python_name)
        ids += [START, *self._encode("assistant")]
        return Prompt(tuple(ids), turn_constraint(conversation, self._tokenizer))

    def _developer(self, conversation: Conversation, leading: Sequence[Turn], has_functions: bool) -> list[int]:
        texts = [turn.text for turn in leading if isinstance(turn, InstructionTurn) and turn.text]
        sections = ["# Instructions\n\n" + "\n\n".join(texts)] if texts else []
        sections += [functions_text(conversation.functions)] if has_functions else []
        body = self._encode("\n\n".join(sections))
        if conversation.response_format is not None:
            # A piece of its own, encoded alone: so the library does it, and so models have seen it.
            body += self._encode(("\n\n" if sections else "") + _format_text(conversation.response_format))
        return self._message("developer", body) if body else []

    def _turn(self, turn: Turn, python_name: str | None) -> list[int]:
        if isinstance(turn, InstructionTurn):
            return self._message("developer", self._encode("# Instructions\n\n" + turn.text)) if turn.text else []
        if isinstance(turn, UserTurn):
            role = "user" if turn.name is None else f"user:{turn.name}"
            return self._message(role, self._encode(turn.text))
        if isinstance(turn, ToolTurn):
            is_python = turn.name == python_name
            role = f"{PYTHON if is_python else 'functions.' + turn.name} to=assistant"
            channel = "analysis" if is_python else "commentary"
            return self._message(role, self._encode(turn.text), [CHANNEL, *self._encode(channel)])
        return self._assistant(turn, python_name)

    def _assistant(self, turn: AssistantTurn, python_name: str | None) -> list[int]:
        ids: list[int] = []
        said = "commentary" if turn.calls or turn.is_preamble else "final"
        for channel, text in (("analysis", turn.reasoning), (said, turn.text)):
            if text:
                ids += self._message("assistant", self._encode(text), [CHANNEL, *self._encode(channel)])
        for call in turn.calls:
            ids += self._python_call(call) if call.name == python_name else self._function_call(call)
        return ids

    def _function_call(self, call: ToolCall) -> list[int]:
        header = [CHANNEL, *self._encode("commentary"), *self._encode(" "), CONSTRAIN, *self._encode("json")]
        return self._message(f"assistant to=functions.{call.name}", self._encode(call.arguments), header, CALL)

    def _python_call(self, call: ToolCall) -> list[int]:
        header = [CHANNEL, *self._encode("analysis"), *self._encode(" code")]
        return self._message(f"assistant to={PYTHON}", self._encode(code_of(call.arguments)), header, CALL)

    def _message(self, role: str, body: list[int], header: Sequence[int] = (), end: int = END) -> list[int]:
        return [START, *self._encode(role), *header, MESSAGE, *body, end]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def code_of(arguments: str) -> str:
    """Return the code of a python call's arguments `{"code": "…"}`; any other text is the code itself."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    code = cast(dict[str, Any], parsed).get("code") if isinstance(parsed, dict) else None
    return code if isinstance(code, str) else arguments


def _format_text(response_format: ResponseFormat) -> str:
    description = f"// {' '.join(response_format.description.split())}\n" if response_format.description.strip() else ""
    schema = json.dumps(response_format.schema, separators=(",", ":"), ensure_ascii=False)
    return f"# Response Formats\n\n## {response_format.name}\n\n{description}{schema}"
