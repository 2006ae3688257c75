"""The renderer: openai-harmony is the oracle where it loses nothing; our own rules where it does."""

from collections.abc import Sequence

import openai_harmony as harmony
import pytest
from openai_harmony import (
    Author,
    DeveloperContent,
    Message,
    ReasoningEffort,
    RenderConversationConfig,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
)

from model.vocabulary import CHANNEL, CONSTRAIN, MESSAGE, NUM_RANKS, SPECIAL_TOKENS, START
from router.harmony.conversation import (
    AssistantTurn,
    Conversation,
    Effort,
    FunctionTool,
    InstructionTurn,
    ResponseFormat,
    ToolCall,
    ToolMode,
    ToolTurn,
    Turn,
    UserTurn,
)
from router.harmony.render import Prompt, Renderer
from router.harmony.system import harmony_encoding
from tests.router.harmony.harmony_text import TOKENIZER

DATE = "2026-11-22"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "City"}, "unit": {"type": "string", "enum": ["c", "f"]}},
    "required": ["city"],
}
WEATHER = FunctionTool("get_weather", "Get the weather.", SCHEMA)
CALL = ToolCall("get_weather", '{"city":"Oslo"}')
HI = UserTurn("Hi")


def render(*turns: Turn, **fields: object) -> Prompt:
    return Renderer(TOKENIZER).render(Conversation(tuple(turns), **fields), DATE)  # pyright: ignore[reportArgumentType]


def text_of(prompt: Prompt) -> str:
    return TOKENIZER.decode(prompt.token_ids)


def library(effort: ReasoningEffort, has_python: bool, *messages: Message) -> list[int]:
    system = SystemContent.new().with_conversation_start_date(DATE).with_reasoning_effort(effort)
    system = system.with_python_tool() if has_python else system
    conversation = harmony.Conversation.from_messages([Message.from_role_and_content(Role.SYSTEM, system), *messages])
    config = RenderConversationConfig(auto_drop_analysis=False)
    return harmony_encoding().render_conversation_for_completion(conversation, Role.ASSISTANT, config)


def said(role: Role, text: str, channel: str | None = None) -> Message:
    message = Message.from_role_and_content(role, text)
    return message if channel is None else message.with_channel(channel)


def developer(instructions: str | None, tools: Sequence[ToolDescription] = (), extra: str = "") -> Message:
    content = DeveloperContent.new()
    content = content if instructions is None else content.with_instructions(instructions)
    content = content.with_function_tools(tools) if tools else content
    return Message.from_role_and_contents(Role.DEVELOPER, [content, *([TextContent(text=extra)] if extra else [])])


LIBRARY_WEATHER = ToolDescription.new("get_weather", "Get the weather.", parameters=SCHEMA)


@pytest.mark.parametrize("effort", Effort)
@pytest.mark.parametrize("text", ["Hi", "", "Grüße 😀", "a\n\n\nb", "<|end|>", "   "])
def test_a_plain_question_is_the_librarys(effort: Effort, text: str) -> None:
    expected = library(ReasoningEffort[effort.name], False, said(Role.USER, text))

    assert list(render(UserTurn(text), effort=effort).token_ids) == expected


def test_instructions_tools_calls_and_results_are_the_librarys() -> None:
    ours = render(
        InstructionTurn("Be brief."),
        UserTurn("Weather?", name="bob"),
        AssistantTurn("Let me look.", "I need the weather.", (CALL,)),
        ToolTurn("get_weather", "sunny"),
        functions=(WEATHER,),
    )
    call = said(Role.ASSISTANT, CALL.arguments, "commentary").with_recipient("functions.get_weather")
    result = Message.from_author_and_content(Author.new(Role.TOOL, "functions.get_weather"), "sunny")

    assert list(ours.token_ids) == library(
        ReasoningEffort.MEDIUM,
        False,
        developer("Be brief.", [LIBRARY_WEATHER]),
        Message.from_author_and_content(Author.new(Role.USER, "bob"), "Weather?"),
        said(Role.ASSISTANT, "I need the weather.", "analysis"),
        said(Role.ASSISTANT, "Let me look.", "commentary"),
        call.with_content_type("<|constrain|>json"),
        result.with_recipient("assistant").with_channel("commentary"),
    )


def test_python_is_described_called_and_answered_as_by_the_library() -> None:
    turns = (HI, AssistantTurn(calls=(ToolCall("python", '{"code": "print(1)"}'),)), ToolTurn("python", "1\n"))
    call = said(Role.ASSISTANT, "print(1)", "analysis").with_recipient("python").with_content_type("code")
    result = Message.from_author_and_content(Author.new(Role.TOOL, "python"), "1\n")

    assert list(render(*turns, has_python=True).token_ids) == library(
        ReasoningEffort.MEDIUM,
        True,
        said(Role.USER, "Hi"),
        call,
        result.with_recipient("assistant").with_channel("analysis"),
    )


def test_a_response_format_ends_the_developer_message() -> None:
    ours = render(
        InstructionTurn("Be brief."),
        HI,
        functions=(WEATHER,),
        response_format=ResponseFormat("answer", {"type": "object", "title": "é"}, "The answer."),
    )
    extra = '\n\n# Response Formats\n\n## answer\n\n// The answer.\n{"type":"object","title":"é"}'
    expected = library(
        ReasoningEffort.MEDIUM, False, developer("Be brief.", [LIBRARY_WEATHER], extra), said(Role.USER, "Hi")
    )

    assert list(ours.token_ids) == expected


def test_a_response_format_alone_makes_a_developer_message() -> None:
    assert "<|start|>developer<|message|># Response Formats\n\n## a\n\n{}<|end|>" in text_of(
        render(HI, response_format=ResponseFormat("a", {}))
    )


def test_every_instruction_reaches_the_prompt_in_order() -> None:
    prompt = render(
        InstructionTurn("First."), InstructionTurn(""), InstructionTurn("Second."), HI, InstructionTurn("Third."), HI
    )

    assert text_of(prompt).endswith(
        "<|start|>developer<|message|># Instructions\n\nFirst.\n\nSecond.<|end|><|start|>user<|message|>Hi<|end|>"
        "<|start|>developer<|message|># Instructions\n\nThird.<|end|>"
        "<|start|>user<|message|>Hi<|end|><|start|>assistant"
    )


def test_empty_instructions_leave_no_developer_message() -> None:
    prompt = render(InstructionTurn(""), HI, InstructionTurn(""))

    assert "developer" not in text_of(prompt)
    assert prompt == render(HI)


class TestHistory:
    """The rule for earlier reasoning, and the two cases in which the library's own filter is wrong."""

    A1, F1 = AssistantTurn(reasoning="A1"), AssistantTurn("F1", "R1")
    CALLING = AssistantTurn("", "A2", (CALL,))

    def test_reasoning_before_the_last_answer_is_dropped(self) -> None:
        """The library keeps the second one: it drops up to the first answer only."""
        text = text_of(render(HI, self.F1, HI, AssistantTurn("F2", "R2"), HI))

        assert "R1" not in text
        assert "R2" not in text
        assert "F1" in text
        assert "F2" in text

    def test_reasoning_of_a_tool_loop_stays_and_older_goes(self) -> None:
        """The library keeps the first one: it drops nothing unless the conversation ends with an answer."""
        text = text_of(render(HI, self.F1, HI, self.CALLING, ToolTurn("get_weather", "sunny"), functions=(WEATHER,)))

        assert "R1" not in text
        assert "analysis<|message|>A2<|end|>" in text

    def test_all_reasoning_of_one_long_tool_loop_stays(self) -> None:
        result = ToolTurn("get_weather", "sunny")
        again = AssistantTurn("", "A3", (CALL,))
        text = text_of(render(HI, self.CALLING, result, again, result, functions=(WEATHER,)))

        assert "A2" in text
        assert "A3" in text

    def test_calls_and_results_of_functions_stay_after_the_answer(self) -> None:
        text = text_of(render(HI, self.CALLING, ToolTurn("get_weather", "sunny"), self.F1, HI, functions=(WEATHER,)))

        assert "A2" not in text
        assert '{"city":"Oslo"}<|call|>' in text
        assert "sunny" in text

    def test_python_goes_with_the_analysis_it_is_written_on(self) -> None:
        calling = AssistantTurn(calls=(ToolCall("python", '{"code":"1+1"}'),))
        turns = (HI, calling, ToolTurn("python", "2"))

        assert "1+1" in text_of(render(*turns, has_python=True))
        assert "1+1" not in text_of(render(*turns, self.F1, HI, has_python=True))
        assert "python to=assistant" not in text_of(render(*turns, self.F1, HI, has_python=True))

    def test_a_reasoning_without_words_or_calls_is_no_answer(self) -> None:
        assert "A1" in text_of(render(HI, self.A1, HI))


class TestToolChoice:
    """What a choice of tools changes about the prompt: what is required is a matter of the constraint."""

    def test_a_required_call_leaves_the_prompt_as_it_is(self) -> None:
        required = render(HI, functions=(WEATHER,), tool_mode=ToolMode.REQUIRED)

        assert required.token_ids == render(HI, functions=(WEATHER,)).token_ids
        assert required.constraint not in (None, render(HI, functions=(WEATHER,)).constraint)
        assert render(HI).constraint is None

    def test_none_offers_nothing(self) -> None:
        prompt = render(HI, functions=(WEATHER,), has_python=True, tool_mode=ToolMode.NONE)

        assert prompt == render(HI)


@pytest.mark.parametrize("special", [*list(SPECIAL_TOKENS)[:24], "<|reserved_201087|>", "<|endofprompt|>"])
def test_no_text_of_a_client_becomes_a_control_token(special: str) -> None:
    """The same conversation with harmless texts of the same kind has exactly as many control tokens."""

    def control_ids(text: str) -> list[int]:
        schema = {
            "type": "object",
            "title": text,
            "properties": {
                f"p{text}": {"type": "string", "description": text, "default": text, "enum": [text]},
                "u": {"anyOf": [{"const": text}, {"type": "object", "description": text}, {"$ref": "#/$defs/d"}]},
            },
            "$defs": {"d": {"type": "string", "examples": [text]}},
        }
        prompt = render(
            InstructionTurn(text),
            UserTurn(text),
            AssistantTurn(text, text, (ToolCall("f", text), ToolCall("python", text))),
            ToolTurn("f", text),
            ToolTurn("python", text),
            InstructionTurn(text),
            functions=(FunctionTool("f", text, schema),),
            has_python=True,
            response_format=ResponseFormat("r", {"title": text}, text),
        )
        return [token_id for token_id in prompt.token_ids if token_id >= NUM_RANKS]

    assert control_ids(special) == control_ids("harmless")
    assert {START, MESSAGE, CHANNEL, CONSTRAIN} <= set(control_ids(special))


def test_the_library_would_take_too_long_for_a_run_of_letters_and_we_do_not() -> None:
    """A regression guard for the reason why only the system message comes from the library."""
    prompt = render(UserTurn("a" * 400_000))

    assert len(prompt.token_ids) > 50_000
