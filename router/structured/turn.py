"""From a conversation to what its answer is held to: the messages that a turn may consist of.

    a form for the answer     analysis … then the answer in that form, or a call if tools are offered
    a required call           analysis … then a call, its arguments held to the function's schema
    tools on offer            any turn that is well-formed: a call is of one of them, its arguments are a JSON object,
                              a strict function's held to its schema
    none of these             no constraint: the model writes as it likes, and the parser bears it

Reasoning is never held to a grammar and never forced; only `<|end|>` ends it, so that the turn goes on to what was
asked for, with the next message: a model that may not answer as it would like reasons over and over. With a form for
the answer there are no preambles: the answer is the only text that a user sees.
"""

import json

from cluster.grammar.constraint import Constraint, GrammarKind, GrammarSpec, MessageShape
from model.tokenizer import Tokenizer
from model.vocabulary import CALL, END, END_OF_TEXT, RETURN
from router.harmony.conversation import Conversation, FunctionTool, ToolMode
from router.harmony.recipients import PYTHON

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_CALL_HEADERS = (
    "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.{name}<|message|>",
    " to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>",
    " to=functions.{name}<|channel|>commentary json<|message|>",
)
"""As models write them, and as they were trained."""
_PYTHON_HEADERS = (
    "<|channel|>analysis to=python code<|message|>",
    " to=python<|channel|>analysis code<|message|>",
)
_ANSWER = "<|channel|>final<|message|>"
_JSON_ANSWER = "<|channel|>final <|constrain|>json<|message|>"


def turn_constraint(conversation: Conversation, tokenizer: Tokenizer) -> Constraint | None:
    """Return what the answer to a conversation is held to, or None if it is free."""
    mode, grammar = conversation.tool_mode, conversation.answer_grammar
    offers_tools = mode is not ToolMode.NONE
    if grammar is None and mode is not ToolMode.REQUIRED and not (offers_tools and conversation.functions):
        return None
    builder = _Shapes(tokenizer)
    is_asked_for = grammar is not None or mode is ToolMode.REQUIRED
    shapes = [builder.going_on("analysis", is_once=is_asked_for)]
    if mode is not ToolMode.REQUIRED:
        shapes += [builder.going_on("commentary")] if grammar is None else []
        shapes.append(builder.answer(grammar))
    if offers_tools:
        shapes += builder.calls(conversation)
    return Constraint(tuple(shapes), builder.ids("<|start|>assistant"))


def text_constraint(grammar: GrammarSpec) -> Constraint:
    """Return what a completion is held to: all of its text."""
    return Constraint((MessageShape(((),), (RETURN, END_OF_TEXT), is_last=True, body=grammar),))


def given_text(token_ids: tuple[int, ...]) -> Constraint:
    """Return what an output is held to that begins with given tokens and goes on as it likes."""
    return Constraint((MessageShape((token_ids,), (), is_last=True, is_open=True),))


class _Shapes:
    """Makes the messages of a turn."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text of ours: names in it were checked, and are no control tokens."""
        return tuple(self._tokenizer.encode_with_special(text))

    def going_on(self, channel: str, is_once: bool = False) -> MessageShape:
        """Return a message of any text after which another follows."""
        return MessageShape((self.ids(f"<|channel|>{channel}<|message|>"),), (END,), is_last=False, is_once=is_once)

    def answer(self, grammar: GrammarSpec | None) -> MessageShape:
        """Return the answer, which may announce itself as JSON if it is."""
        is_json = grammar is not None and grammar.kind in {GrammarKind.JSON_SCHEMA, GrammarKind.JSON_OBJECT}
        headers = (_ANSWER, _JSON_ANSWER) if is_json else (_ANSWER,)
        return MessageShape(tuple(map(self.ids, headers)), (RETURN,), is_last=True, body=grammar)

    def calls(self, conversation: Conversation) -> list[MessageShape]:
        """Return a message for each tool that may be called."""
        forced, is_required = conversation.forced_tool, conversation.tool_mode is ToolMode.REQUIRED
        shapes = [
            self._call(tool, place, is_required)
            for place, tool in enumerate(conversation.functions)
            if forced in (None, tool.name)
        ]
        if conversation.has_python and forced in (None, PYTHON):
            shapes.append(MessageShape(tuple(map(self.ids, _PYTHON_HEADERS)), (CALL,), is_last=True))
        return shapes

    def _call(self, tool: FunctionTool, place: int, is_required: bool) -> MessageShape:
        headers = tuple(self.ids(header.format(name=tool.name)) for header in _CALL_HEADERS)
        body = _arguments(tool, place, has_schema=tool.is_strict or is_required)
        return MessageShape(headers, (CALL,), is_last=True, body=body)


def _arguments(tool: FunctionTool, place: int, has_schema: bool) -> GrammarSpec:
    origin = f"tools[{place}].function.parameters"
    if not has_schema:
        return GrammarSpec(GrammarKind.JSON_OBJECT, "", origin=origin)
    schema = _NO_ARGUMENTS if tool.parameters is None else tool.parameters
    return GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(schema), not tool.is_strict, origin)
