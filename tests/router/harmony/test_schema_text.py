"""Tool schemas as text: the library's, character by character, where it loses nothing; faithful where it does."""

from typing import Any

import pytest
from openai_harmony import DeveloperContent, Message, Role, ToolDescription

from router.errors import InvalidRequest
from router.harmony.conversation import FunctionTool
from router.harmony.functions import functions_text
from router.harmony.schema_text import parameters_text
from router.harmony.system import harmony_encoding


def properties(**schemas: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schemas, "required": [name for name in schemas if name.startswith("must")]}


def library_text(tool: FunctionTool) -> str:
    parameters = None if tool.parameters is None else dict(tool.parameters)
    description = ToolDescription.new(tool.name, tool.description, parameters=parameters)
    message = Message.from_role_and_content(Role.DEVELOPER, DeveloperContent.new().with_function_tools([description]))
    encoding = harmony_encoding()
    return encoding.decode_utf8(encoding.render(message)).split("<|message|>")[1].removesuffix("<|end|>")


LOSSLESS: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "strings": properties(must={"type": "string", "description": "City name"}, may={"type": "string"}),
    "numbers": properties(must={"type": "integer"}, may={"type": "number", "default": 1.5}),
    "booleans": properties(may={"type": "boolean", "default": True}),
    "enums": properties(
        must={"type": "string", "enum": ["a", "b"]}, may={"type": "string", "enum": ["c"], "default": "c"}
    ),
    "text defaults": properties(may={"type": "string", "default": "x y"}),
    "arrays": properties(must={"type": "array", "items": {"type": "string"}}, may={"type": "array"}),
    "arrays of arrays": properties(may={"type": "array", "items": {"type": "array", "items": {"type": "number"}}}),
    "array defaults": properties(may={"type": "array", "items": {"type": "string"}, "default": ["k", "l"]}),
    "several types": properties(may={"type": ["string", "null"]}),
    "nullable": properties(may={"type": "string", "nullable": True, "default": "m"}),
    "titles": properties(may={"type": "integer", "title": "Count", "description": "How many"}),
    "examples": properties(may={"type": "string", "title": "Name", "examples": ["x", "y"]}),
    "objects": properties(may={"type": "object", "properties": {"x": {"type": "string", "description": "the x"}}}),
    "objects in objects": properties(
        may={"type": "object", "properties": {"q": {"type": "object", "properties": {"z": {"type": "string"}}}}}
    ),
    "arrays of objects": properties(
        may={"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string", "description": "K"}}}}
    ),
    "unions": properties(
        must={"oneOf": [{"type": "string"}, {"type": "integer"}], "description": "pick", "default": "x"}
    ),
    "unions of objects": properties(
        may={
            "type": "object",
            "properties": {
                "q": {"oneOf": [{"type": "string"}, {"type": "object", "properties": {"z": {"type": "number"}}}]}
            },
        }
    ),
    "anything": properties(may={}),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_what_the_library_renders_without_loss_is_the_same(name: str) -> None:
    tool = FunctionTool("f", "Do it.\nAt once.", LOSSLESS[name])

    assert functions_text([tool]) == library_text(tool)


FAITHFUL: dict[str, tuple[dict[str, Any], str]] = {
    "optional": (
        {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "p?: number | null, // default: null",
    ),
    "union": (
        {"anyOf": [{"type": "string", "description": "a name"}, {"type": "integer"}]},
        "p?:\n | string // a name\n | number\n,",
    ),
    "constant": ({"const": "x"}, 'p?: "x",'),
    "enum of numbers": ({"enum": [1, 2, None]}, "p?: 1 | 2 | null,"),
    "typed enum of numbers": ({"type": "integer", "enum": [1, 2]}, "p?: 1 | 2,"),
    "reference": ({"$ref": "#/$defs/colour"}, '// Colour\np?: "red" | "green",'),
    "reference with words of its own": ({"$ref": "#/$defs/colour", "title": "Mine"}, '// Mine\np?: "red" | "green",'),
    "reference to itself": (
        {"$ref": "#/$defs/node"},
        "p?: {\n    next?: any /* node again */ | null,\n    },",
    ),
    "all of": (
        {"allOf": [{"$ref": "#/$defs/node"}, {"properties": {"x": {"type": "string"}}, "required": ["x"]}]},
        "p?: {\n    x: string,\n    next?: any /* node again */ | null,\n    },",
    ),
    "map": ({"type": "object", "additionalProperties": {"type": "integer"}}, "p?: { [key: string]: number },"),
    "tuple": ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}, "p?: [string, number],"),
    "array of a union": (
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        "p?: (string | number)[],",
    ),
    "array of an enum": ({"type": "array", "items": {"enum": ["a", "b"]}}, 'p?: ("a" | "b")[],'),
    "several lines of description": ({"type": "string", "description": "one\ntwo"}, "// one\n// two\np?: string,"),
    "null": ({"type": "null"}, "p?: null,"),
    "quotes in a default": ({"type": "string", "default": 'a "b"'}, 'p?: string, // default: "a \\"b\\""'),
    "true as a schema": ({"type": "array", "items": True}, "p?: any[],"),
}  # fmt: skip
DEFINITIONS = {
    "colour": {"enum": ["red", "green"], "title": "Colour"},
    "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}},
}


@pytest.mark.parametrize("name", FAITHFUL)
def test_what_the_library_would_lose_is_kept(name: str) -> None:
    schema, expected = FAITHFUL[name]

    text = parameters_text({**properties(p=schema), "$defs": DEFINITIONS}, "parameters")

    assert text == "{\n" + expected + "\n}"


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_function_that_takes_nothing_has_no_argument(schema: dict[str, Any]) -> None:
    assert "type f = () => any;" in functions_text([FunctionTool("f", "", schema)])


def test_a_name_that_is_no_identifier_is_quoted() -> None:
    assert parameters_text(properties(**{"a b": {"type": "string"}}), "p") == '{\n"a b"?: string,\n}'


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (properties(p={"$ref": "https://example.org/s.json"}), "f.properties.p.$ref"),
        (properties(p={"$ref": "#/$defs/none"}), "f.properties.p.$ref"),
        ({"type": "object", "properties": [1]}, "f.properties"),
        (properties(p=5), "f.properties.p"),
        (properties(p={"enum": "ab"}), "f.properties.p.enum"),
        (properties(p={"anyOf": {"type": "string"}}), "f.properties.p.anyOf"),
        ({"type": "object", "properties": {"p": {}}, "required": "p"}, "f.required"),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused_by_its_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parameters_text(schema, "f")

    assert caught.value.param == place


def test_a_bomb_of_references_is_refused_at_once() -> None:
    """Twelve definitions, each of ten references to the next, would make 10**12 types."""
    bomb = {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}", "title": str(i)} for i in range(10)]} for n in range(12)}

    with pytest.raises(InvalidRequest):
        parameters_text({**properties(p={"$ref": "#/$defs/0"}), "$defs": {**bomb, "12": {"type": "string"}}}, "f")


def test_a_schema_of_a_hundred_levels_is_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}

    with pytest.raises(InvalidRequest):
        parameters_text(properties(p=deep), "f")


def test_a_schema_that_is_only_itself_ends() -> None:
    assert parameters_text({"$ref": "#"}, "f") == "any /* # again */"
