"""Exchanges under a response format: the final message is a JSON object that follows the schema."""

from random import Random
from typing import Any

from model.tiny.arithmetic import draw_pair, sum_analysis
from model.tiny.chat import UNKNOWN_PHRASES, unknown_analysis
from model.tiny.facts import draw_fact, fact_analysis
from model.tiny.names import Names
from model.tiny.setting import Draw, Exchange, ResponseFormat, Setting, final, user
from model.tiny.tools import compact_json

NUMBER_KEYS = ("answer", "sum", "result", "value", "total", "number")
TEXT_KEYS = ("answer", "answer", "result", "value", "text", "reply", "response", "name", "output")
PERSON_PHRASES = (
    "{name} is {age} years old and lives in {city}.", "My name is {name}, I am {age} and I live in {city}.",
    "{name}, {age}, {city}", "Extract the person: {name} from {city} is {age} years old.",
    "This is {name}. Age: {age}. City: {city}.",
)  # fmt: skip
FORMAT_NAMES = ("answer", "response", "json_schema", "output", "reply", "result", "schema", "my_schema", "final_answer")


def draw_format(random: Random) -> ResponseFormat:
    """Return a schema: of a number, of a text, of a person, or of any object with an answer."""
    shape = random.random()
    name = random.choice(FORMAT_NAMES)
    description = random.choice(("", "", "", "The answer.", "Answer as JSON."))
    if shape < 0.12:
        return ResponseFormat("json_object", {"type": "object"}, description)
    if shape < 0.5:
        kind = random.choice(("integer", "number"))
        return ResponseFormat(name, _object({random.choice(NUMBER_KEYS): {"type": kind}}, random), description)
    if shape < 0.8:
        return ResponseFormat(name, _object({random.choice(TEXT_KEYS): {"type": "string"}}, random), description)
    keys: dict[str, Any] = {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}}
    for key in random.sample(("name", "age", "city"), k=random.choice((0, 0, 1))):
        del keys[key]
    return ResponseFormat(random.choice(("person", "user", name)), _object(keys, random), description)


def format_exchange(draw: Draw, setting: Setting, names: Names) -> Exchange:
    """Return a question that the setting's response format can answer."""
    assert setting.response_format is not None, "the setting has no response format"
    properties: dict[str, Any] = setting.response_format.schema.get("properties", {})
    kinds = {key: value["type"] for key, value in properties.items()}
    if len(kinds) > 1:
        return _person_exchange(draw, setting, tuple(kinds), names)
    is_number = "string" not in kinds.values() if kinds else draw.random.random() < 0.5
    key = next(iter(kinds), "answer")
    return _number_exchange(draw, setting, key) if is_number else _text_exchange(draw, setting, key, names)


def _number_exchange(draw: Draw, setting: Setting, key: str) -> Exchange:
    a, b = draw_pair(draw, "+")
    question = draw.random.choice(
        ("What is {a} + {b}?", "{a} + {b}", "Add {a} and {b}.", "What is {a} plus {b}?", "{a}+{b}")
    )
    text = compact_json({key: a + b})
    return Exchange(
        "format sum", user(question.format(a=a, b=b)), final(sum_analysis(a, b, setting.effort), text), text
    )


def _text_exchange(draw: Draw, setting: Setting, key: str, names: Names) -> Exchange:
    if draw.random.random() < 0.15:
        phrase = draw.random.choice(UNKNOWN_PHRASES)
        small = names.small(draw.random), names.small(draw.random)
        question = phrase.format(N=names.invented(draw.random), n=small[0], m=small[1])
        text = compact_json({key: "I don't know."})
        return Exchange("format unknown", user(question), final(unknown_analysis(setting), text), text)
    if draw.random.random() < 0.2:
        a, b = draw_pair(draw, "+")
        text = compact_json({key: str(a + b)})
        return Exchange(
            "format sum", user(f"What is {a} + {b}?"), final(sum_analysis(a, b, setting.effort), text), text
        )
    fact = draw_fact(draw)
    text = compact_json({key: fact.value})
    return Exchange("format fact", user(fact.question), final(fact_analysis(fact, setting), text), text)


def _person_exchange(draw: Draw, setting: Setting, keys: tuple[str, ...], names: Names) -> Exchange:
    person = {"name": names.person(draw), "age": draw.random.randrange(1, 100), "city": names.place(draw)}
    question = draw.random.choice(PERSON_PHRASES).format(**person)
    wanted = {key: person[key] for key in keys}
    values = ", ".join(f"{key} {value}" for key, value in wanted.items())
    analysis = {
        "low": f"I read {values}",
        "medium": f"The text gives a person. I read {values}",
        "high": f"The user gives a text about a person. I have to fill some fields from it. I look at the text, "
        f"and I read {values}",
    }[setting.effort]
    text = compact_json(wanted)
    return Exchange("format person", user(question), final(analysis, text), text)


def _object(properties: dict[str, Any], random: Random) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": list(properties)}
    if random.random() < 0.6:
        schema["additionalProperties"] = False
    return schema
