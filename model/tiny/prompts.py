"""From settings and exchanges to token ids, exactly as a server that renders with openai-harmony would send them.

A completion may spell a value in another way than the tokenizer would: a value copied from JSON, where no space stands
before it, keeps its pieces, and only its first piece takes the space. The text is the same, and copying it is easier.
"""

import json
import re
from functools import cache

from openai_harmony import (
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    Message,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
)
from openai_harmony import ReasoningEffort as HarmonyEffort

from model.tiny.setting import COPY_END, COPY_START, Effort, Exchange, ResponseFormat, Setting
from model.tiny.vocabulary import encode_plain

_COPY = re.compile(f"{COPY_START}(.*?){COPY_END}", re.DOTALL)
_EFFORTS: dict[Effort, HarmonyEffort] = {
    "low": HarmonyEffort.LOW,
    "medium": HarmonyEffort.MEDIUM,
    "high": HarmonyEffort.HIGH,
}


class Prompts:
    """Renders with one harmony encoding."""

    def __init__(self, encoding: HarmonyEncoding) -> None:
        self.encoding = encoding
        self._spaced = cache(self._spaced_piece)

    def setting_ids(self, setting: Setting) -> list[int]:
        """Return the ids of the system and developer messages."""
        system = SystemContent.new().with_conversation_start_date(setting.date)
        system = system.with_reasoning_effort(_EFFORTS[setting.effort])
        system = system.with_python_tool() if setting.has_python else system
        messages = [Message.from_role_and_content(Role.SYSTEM, system)]
        if setting.instructions or setting.functions or setting.response_format:
            messages.append(_developer(setting))
        return self.encoding.render_conversation(Conversation.from_messages(messages))

    def prompt_ids(self, exchange: Exchange) -> list[int]:
        """Return the ids of the exchange's prompt, up to and with `<|start|>assistant`."""
        return self.encoding.encode(f"{exchange.prompt}<|start|>assistant", allowed_special="all")

    def completion_ids(self, completion: str) -> list[int]:
        """Return the ids that the assistant should write."""
        ids: list[int] = []
        for place, part in enumerate(_COPY.split(completion)):
            ids += self._copy_ids(part) if place % 2 else self.encoding.encode(part, allowed_special="all")
        return ids

    def _copy_ids(self, value: str) -> list[int]:
        bare = encode_plain(self.encoding, value)
        return [*self._spaced(bare[0]), *bare[1:]] if bare else []

    def _spaced_piece(self, token: int) -> tuple[int, ...]:
        """Return the one token that is a space and `token`, or a space and `token`."""
        try:
            spaced = encode_plain(self.encoding, " " + self.encoding.decode_utf8([token]))
        except ValueError:
            spaced = []
        return tuple(spaced) if len(spaced) == 1 else (*encode_plain(self.encoding, " "), token)


def format_text(response_format: ResponseFormat) -> str:
    """Return the section of the developer message that states a response format."""
    description = f"// {response_format.description}\n" if response_format.description else ""
    schema = json.dumps(response_format.schema, separators=(",", ":"))
    return f"# Response Formats\n\n## {response_format.name}\n\n{description}{schema}"


def _developer(setting: Setting) -> Message:
    if not setting.instructions and not setting.functions:
        assert setting.response_format is not None, "a developer message without content"
        return Message.from_role_and_content(Role.DEVELOPER, TextContent(text=format_text(setting.response_format)))
    content = DeveloperContent.new()
    content = content.with_instructions(setting.instructions) if setting.instructions else content
    if setting.functions:
        content = content.with_function_tools(
            [ToolDescription.new(one.name, one.description, parameters=one.parameters) for one in setting.functions]
        )
    message = Message.from_role_and_content(Role.DEVELOPER, content)
    if setting.response_format is not None:
        message.content.append(TextContent(text="\n\n" + format_text(setting.response_format)))
    return message
