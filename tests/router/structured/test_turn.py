"""From conversations to constraints: which messages a turn may consist of."""

from typing import Any

import pytest

from cluster.grammar.constraint import GrammarKind, GrammarSpec
from model.tokenizer import Tokenizer
from model.vocabulary import CALL, END, RETURN
from router.harmony.conversation import Conversation, FunctionTool, ToolMode, UserTurn
from router.harmony.parse import HarmonyParser
from router.structured.turn import turn_constraint

TOKENIZER = Tokenizer()
FORM = GrammarSpec(GrammarKind.JSON_SCHEMA, "{}", origin="form")
F = FunctionTool("f", "", {"type": "object"})
STRICT = FunctionTool("g", "", {"type": "object"}, is_strict=True)


def shapes(**fields: Any) -> dict[str, tuple[tuple[int, ...], bool, str | None]]:
    """Return the first header of each message that may come, with its ends, whether it is the last, and its grammar."""
    constraint = turn_constraint(Conversation((UserTurn("Hi"),), **fields), TOKENIZER)
    assert constraint is not None
    assert TOKENIZER.decode(constraint.opening) == "<|start|>assistant"
    return {
        TOKENIZER.decode(shape.headers[0]): (shape.ends, shape.is_last, shape.body and shape.body.origin)
        for shape in constraint.shapes
    }


FIRST, SECOND = "tools[0].function.parameters", "tools[1].function.parameters"
ANALYSIS = {"<|channel|>analysis<|message|>": ((END,), False, None)}
PREAMBLE = {"<|channel|>commentary<|message|>": ((END,), False, None)}


def final(origin: str | None) -> dict[str, Any]:
    return {"<|channel|>final<|message|>": ((RETURN,), True, origin)}


def call(name: str, origin: str | None) -> dict[str, Any]:
    return {f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>": ((CALL,), True, origin)}


@pytest.mark.parametrize("fields", [{}, {"functions": (F, STRICT), "tool_mode": ToolMode.NONE}])
def test_what_asks_for_nothing_is_free(fields: dict[str, Any]) -> None:
    assert turn_constraint(Conversation((UserTurn("Hi"),), **fields), TOKENIZER) is None


def test_an_answer_in_a_form_comes_after_reasoning_and_without_preambles() -> None:
    assert shapes(answer_grammar=FORM) == ANALYSIS | final("form")


def test_with_tools_a_call_may_come_instead() -> None:
    assert shapes(answer_grammar=FORM, functions=(F,)) == ANALYSIS | final("form") | call("f", FIRST)


def test_a_required_call_is_all_that_may_end_the_turn() -> None:
    expected = ANALYSIS | call("f", FIRST) | call("g", SECOND)
    assert shapes(functions=(F, STRICT), tool_mode=ToolMode.REQUIRED) == expected


@pytest.mark.parametrize(
    ("fields", "is_once"),
    [
        ({"answer_grammar": FORM}, True),
        ({"functions": (F,), "tool_mode": ToolMode.REQUIRED}, True),
        ({"functions": (STRICT,)}, False),
    ],
)
def test_one_message_of_reasoning_comes_before_what_was_asked_for(fields: dict[str, Any], is_once: bool) -> None:
    constraint = turn_constraint(Conversation((UserTurn("Hi"),), **fields), TOKENIZER)
    assert constraint is not None
    assert [shape.is_once for shape in constraint.shapes] == [is_once] + [False] * (len(constraint.shapes) - 1)


def test_a_named_function_is_the_only_one() -> None:
    expected = ANALYSIS | call("g", SECOND)
    assert shapes(functions=(F, STRICT), tool_mode=ToolMode.REQUIRED, forced_tool="g") == expected


def test_a_strict_tool_leaves_the_turn_open_and_holds_its_own_calls() -> None:
    calls = call("f", FIRST) | call("g", SECOND)
    assert shapes(functions=(F, STRICT)) == ANALYSIS | PREAMBLE | final(None) | calls


def test_only_functions_on_offer_can_be_called() -> None:
    assert shapes(functions=(F,)) == ANALYSIS | PREAMBLE | final(None) | call("f", FIRST)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"functions": (F, STRICT)}, [GrammarKind.JSON_OBJECT, GrammarKind.JSON_SCHEMA]),
        ({"functions": (F, STRICT), "tool_mode": ToolMode.REQUIRED}, [GrammarKind.JSON_SCHEMA] * 2),
        ({"functions": (F,), "answer_grammar": FORM}, [GrammarKind.JSON_SCHEMA, GrammarKind.JSON_OBJECT]),
        ({"functions": (F,), "has_python": True}, [GrammarKind.JSON_OBJECT]),
    ],
)
def test_arguments_are_an_object_of_any_shape_unless_a_schema_is_to_be_enforced(
    fields: dict[str, Any], kinds: list[GrammarKind]
) -> None:
    constraint = turn_constraint(Conversation((UserTurn("Hi"),), **fields), TOKENIZER)
    assert constraint is not None
    assert [shape.body.kind for shape in constraint.shapes if shape.body is not None] == kinds


def test_python_is_called_with_code() -> None:
    expected = ANALYSIS | {"<|channel|>analysis to=python code<|message|>": ((CALL,), True, None)}
    assert shapes(has_python=True, tool_mode=ToolMode.REQUIRED) == expected


def test_the_parser_reads_every_header_as_what_it_is() -> None:
    conversation = Conversation((UserTurn("Hi"),), (F, STRICT), has_python=True)
    constraint = turn_constraint(conversation, TOKENIZER)
    assert constraint is not None

    for shape in constraint.shapes:
        kinds: set[str] = set()
        for header in shape.headers:
            parser = HarmonyParser(TOKENIZER.token_bytes, conversation.callable_tools)
            kinds.add(" ".join(f"{delta!r}" for delta in parser.push_all(header)))
        assert len(kinds) == 1, kinds
        assert ("CallBegun" in next(iter(kinds))) == (shape.ends == (CALL,))


@pytest.mark.parametrize(("is_strict", "is_lenient"), [(True, False), (False, True)])
def test_only_strict_schemas_are_refused_for_what_cannot_be_enforced(is_strict: bool, is_lenient: bool) -> None:
    tool = FunctionTool("f", "", None, is_strict)
    constraint = turn_constraint(Conversation((), (tool,), tool_mode=ToolMode.REQUIRED), TOKENIZER)
    assert constraint is not None
    body = constraint.shapes[1].body
    assert body is not None
    assert body.is_lenient is is_lenient
    assert '"additionalProperties": false' in body.text, "a function without parameters takes no arguments"
