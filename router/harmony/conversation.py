"""A conversation as every API hands it to the renderer: turns, tools, effort, response format. Nothing of any wire."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.grammar.constraint import GrammarSpec
from router.harmony.recipients import MAX_NAME_CHARS, CallableTools

JsonObject = Mapping[str, Any]
_TOOL_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME_CHARS}}}")
_PARTICIPANT_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}")


class Effort(StrEnum):
    """How long the model reasons: the three lengths it was trained for."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function that the client runs. `parameters` is its JSON schema; None means it takes nothing."""

    name: str
    description: str = ""
    parameters: JsonObject | None = None
    is_strict: bool = False
    """The arguments of every call are held to `parameters`, and what cannot be enforced of them is refused."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made earlier. `arguments` is text, as the model wrote it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class InstructionTurn:
    """A system or developer message of the client: both become harmony's developer message."""

    text: str


@dataclass(frozen=True, slots=True)
class UserTurn:
    """A user's message."""

    text: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """What the assistant reasoned, said and called before. With calls, what it said was a preamble."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    is_preamble: bool = False
    """What it said was said before a call, also where the call is a turn of its own."""


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """A tool's result."""

    name: str
    text: str


Turn = InstructionTurn | UserTurn | AssistantTurn | ToolTurn


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A JSON schema that the answer follows, told to the model at the end of the developer message."""

    name: str
    schema: JsonObject
    description: str = ""


class ToolMode(StrEnum):
    """Whether the answer may, must not or must call a tool."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Everything that the prompt says."""

    turns: tuple[Turn, ...]
    functions: tuple[FunctionTool, ...] = ()
    has_python: bool = False
    """The built-in python tool is on offer: its calls are code, and the client runs them."""
    effort: Effort = Effort.MEDIUM
    response_format: ResponseFormat | None = None
    answer_grammar: GrammarSpec | None = None
    """What the answer is held to."""
    tool_mode: ToolMode = ToolMode.AUTO
    forced_tool: str | None = None
    """With `tool_mode` REQUIRED: the one tool to call."""
    date: str | None = None
    """When the conversation began, as YYYY-MM-DD; None: today. A pinned one keeps later prompts' beginnings equal."""

    @property
    def callable_tools(self) -> CallableTools:
        """Return what the answer may call."""
        if self.tool_mode is ToolMode.NONE:
            return CallableTools()
        return CallableTools(frozenset(tool.name for tool in self.functions), self.has_python)


def is_tool_name(name: str) -> bool:
    """Return whether a header can carry `name`: the model reads headers word by word."""
    return _TOOL_NAME.fullmatch(name) is not None


def is_participant_name(name: str) -> bool:
    """Return whether `name` may stand beside a user's role."""
    return _PARTICIPANT_NAME.fullmatch(name) is not None
