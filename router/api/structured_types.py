"""What bodies may say of the form of an answer: OpenAI's `response_format`, and vLLM's names for the rest."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.grammar.constraint import GrammarKind, GrammarSpec
from router.api.body import Part
from router.api.options import SamplingBody
from router.errors import InvalidRequest

MAX_CHOICES = 10_000
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)]
Text = Annotated[str, Field(min_length=1)]
JsonSchema = dict[str, Any] | Text
"""A schema, or its text."""


class JsonSchemaFormat(Part):
    """A schema for the answer, enforced whether it is called strict or not."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormatBody(Part):
    """What the answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Part):
    """What the text is held to; one of these."""

    json_: JsonSchema | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    structural_tag: None = Field(default=None, description="Not supported: turns have harmony's structure")


class StructuredBody(SamplingBody):
    """Fields of the endpoints whose text can be held to a form; at most one of them."""

    response_format: ResponseFormatBody | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | None = Field(default=None, description="The same as `structured_outputs.json`")
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = Field(default=None, description="Lark, or EBNF with a rule `root`")


def answer_grammar(body: StructuredBody) -> GrammarSpec | None:
    """Return what the text is held to; raises InvalidRequest naming the field."""
    found = [*_of_format(body.response_format), *_of_fields(body)]
    if len(found) > 1:
        names = ", ".join(spec.origin for spec in found)
        raise InvalidRequest(f"{names}: only one form can be given.", found[1].origin, "invalid_value")
    if found and body.ignore_eos:
        raise InvalidRequest("ignore_eos cannot be combined with a form for the text.", "ignore_eos", "invalid_value")
    return found[0] if found else None


def _of_format(wanted: ResponseFormatBody | None) -> list[GrammarSpec]:
    if wanted is None or wanted.type == "text":
        return []
    if wanted.type == "json_object":
        return [_any_object("response_format")]
    path = "response_format.json_schema"
    if wanted.json_schema is None:
        raise InvalidRequest(f"{path} is missing.", path, "missing_required_parameter")
    schema = wanted.json_schema.schema_
    return [_any_object(path) if schema is None else _schema(schema, f"{path}.schema")]


def _of_fields(body: StructuredBody) -> list[GrammarSpec]:
    wanted = body.structured_outputs or StructuredOutputs()
    fields: list[tuple[str, GrammarKind, JsonSchema | Choices | None]] = [
        ("structured_outputs.json", GrammarKind.JSON_SCHEMA, wanted.json_),
        ("structured_outputs.regex", GrammarKind.REGEX, wanted.regex),
        ("structured_outputs.choice", GrammarKind.CHOICE, wanted.choice),
        ("structured_outputs.grammar", GrammarKind.LARK, wanted.grammar),
        ("guided_json", GrammarKind.JSON_SCHEMA, body.guided_json),
        ("guided_regex", GrammarKind.REGEX, body.guided_regex),
        ("guided_choice", GrammarKind.CHOICE, body.guided_choice),
        ("guided_grammar", GrammarKind.LARK, body.guided_grammar),
    ]
    found = [_any_object("structured_outputs.json_object")] if wanted.json_object else []
    for name, kind, value in fields:
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append(GrammarSpec(kind, text, origin=name))
    return found


def _schema(schema: dict[str, Any], origin: str) -> GrammarSpec:
    return GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(schema), origin=origin)


def _any_object(origin: str) -> GrammarSpec:
    return GrammarSpec(GrammarKind.JSON_OBJECT, "", origin=origin)
