"""The system message, in openai-harmony's own words: identity, date, effort, built-in tools, channels.

Only this text comes from the library, because only it is fixed. The other messages are assembled in `render` with our
tokenizer: the library's takes time quadratic in the length of a run of letters (9 s for 160,000 of them) and holds the
interpreter all the while.
"""

import os
from functools import cache, lru_cache

import openai_harmony
from openai_harmony import (
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    Message,
    Role,
    SystemContent,
    ToolDescription,
)
from openai_harmony import ReasoningEffort as LibraryEffort

from model.cache_dir import cache_dir
from model.vocabulary import END, vocabulary_dir
from router.harmony.conversation import Effort

_EFFORTS = {Effort.LOW: LibraryEffort.LOW, Effort.MEDIUM: LibraryEffort.MEDIUM, Effort.HIGH: LibraryEffort.HIGH}
_VOCABULARY_VARIABLE = "TIKTOKEN_ENCODINGS_BASE"


@lru_cache(maxsize=64)
def system_ids(effort: Effort, date: str, has_python: bool, has_functions: bool) -> tuple[int, ...]:
    """Return the ids of the system message, `<|start|>` to `<|end|>`; `date` is YYYY-MM-DD."""
    system = SystemContent.new().with_conversation_start_date(date).with_reasoning_effort(_EFFORTS[effort])
    system = system.with_python_tool() if has_python else system
    messages = [Message.from_role_and_content(Role.SYSTEM, system)]
    if has_functions:
        # The library says where functions are called when it finds one in the conversation.
        some_function = DeveloperContent.new().with_function_tools([ToolDescription.new("f", "")])
        messages.append(Message.from_role_and_content(Role.DEVELOPER, some_function))
    ids = harmony_encoding().render_conversation(Conversation.from_messages(messages))
    return tuple(ids[: ids.index(END) + 1])


@cache
def harmony_encoding() -> HarmonyEncoding:
    """Return the library's encoding, loaded once a process (0.6 s, 84 MB) from our own vocabulary, offline."""
    os.environ.setdefault(_VOCABULARY_VARIABLE, str(vocabulary_dir(cache_dir())))
    return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
