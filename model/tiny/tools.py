"""Exchanges with tools: the call that fits, the answer from its result, Python for large numbers."""

import json
from dataclasses import dataclass

from model.tiny.arithmetic import DIFFERENCE_PHRASES, PRODUCT_PHRASES, SUM_PHRASES, draw_large
from model.tiny.functions import UNITS, Offer, draw_value
from model.tiny.names import Names
from model.tiny.setting import Draw, Exchange, Setting, copied, final, plain, user

CONDITIONS = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy", "partly cloudy", "light rain")
ORDER_STATES = (
    "shipped",
    "delivered",
    "pending",
    "lost",
    "on its way",
    "cancelled",
    "processing",
    "sent",
    "done",
    "ok",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question that one of the functions on offer answers, and the call that it needs."""

    text: str
    offer: Offer
    arguments: dict[str, str | int]


def draw_question(draw: Draw, offers: tuple[Offer, ...], names: Names) -> Question:
    """Return a question for one of the offers."""
    offer = draw.random.choice(offers)
    values = [draw_value(kind, draw, names) for kind, _ in offer.family.slots]
    text = draw.random.choice(offer.family.phrases).format(*values)
    arguments: dict[str, str | int] = dict(zip(offer.parameters, values, strict=True))
    if offer.has_unit and draw.random.random() < 0.3:
        arguments["unit"] = draw.random.choice(UNITS)
        text = f"{text} In {arguments['unit']}, please."
    before = draw.random.choice(("", "", "", "", "", "Hi, ", "Please help me. ", "Hello! "))
    return Question(before + text, offer, arguments)


def call_exchange(draw: Draw, setting: Setting, offers: tuple[Offer, ...], names: Names) -> Exchange:
    """Return a question and the call that it needs."""
    question = draw_question(draw, offers, names)
    name, arguments = question.offer.function.name, compact_json(question.arguments)
    completion = (
        f"<|channel|>analysis<|message|>{_call_analysis(question, setting)}<|end|>"
        f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}<|call|>"
    )
    kind = "call" if question.offer.is_known else "call of an invented function"
    return Exchange(kind, user(question.text), completion, arguments, f"functions.{name}")


def result_exchange(draw: Draw, setting: Setting, offers: tuple[Offer, ...], names: Names) -> Exchange:
    """Return a conversation in which the function has answered, and the answer that uses its result."""
    question = draw_question(draw, offers, names)
    name = question.offer.function.name
    result, text = _draw_result(draw, question, names)
    prompt = user(question.text) + _called(draw, question, setting)
    prompt += f"<|start|>functions.{name} to=assistant<|channel|>commentary<|message|>{result}<|end|>"
    analysis = {
        "low": "Answer.",
        "medium": f"The function {name} has answered. I report it.",
        "high": f"The function {name} has answered. Its result is what the user asked for. "
        "I need no other call, so I report the result in plain words.",
    }[setting.effort]
    return Exchange("result", prompt, final(analysis, text), plain(text))


def no_function_exchange(draw: Draw, setting: Setting, offer: Offer, names: Names) -> Exchange:
    """Return a question for a function that is not on offer: the assistant says that it doesn't know."""
    question = draw_question(draw, (offer,), names)
    analysis = {
        "low": "No function fits.",
        "medium": "None of the functions fits. I say so.",
        "high": "The user asks for something that a function could do. I look at the functions on offer. "
        "None of them fits, and I have no fact about it. It is best to say plainly that I don't know.",
    }[setting.effort]
    text = "I don't know."
    return Exchange("no function", user(question.text), final(analysis, text), text)


def python_call_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a calculation with large numbers and the Python code for it."""
    question, expression, _ = _draw_calculation(draw)
    completion = (
        f"<|channel|>analysis<|message|>{_python_analysis(expression, setting)}<|end|>"
        f"<|start|>assistant<|channel|>analysis to=python code<|message|>print({expression})<|call|>"
    )
    return Exchange("python call", user(question), completion, f"print({expression})", "python")


def python_result_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a calculation that Python has done, and its report."""
    question, expression, value = _draw_calculation(draw)
    code = f"<|message|>print({expression})<|call|>"
    header = draw.random.choice(
        ("<|start|>assistant<|channel|>analysis to=python code", "<|start|>assistant to=python<|channel|>analysis code",
         "<|start|>assistant to=python<|channel|>analysis <|constrain|>code")
    )  # fmt: skip
    thought = f"<|start|>assistant<|channel|>analysis<|message|>{_python_analysis(expression, setting)}<|end|>"
    prompt = user(question) + (thought if draw.random.random() < 0.8 else "") + header + code
    printed = f"{value}" + draw.random.choice(("", "", "\n"))
    recipient = draw.random.choice((" to=assistant", " to=assistant", ""))
    prompt += f"<|start|>python{recipient}<|channel|>analysis<|message|>{printed}<|end|>"
    text = f"{value}" if setting.is_brief else f"{_spaced(expression)} = {value}."
    analysis = {
        "low": f"It is {value}.",
        "medium": f"Python has printed {value}. I report it.",
        "high": f"Python has done the calculation and printed {value}. I trust it more than my own head. "
        "So I report this number.",
    }[setting.effort]
    return Exchange("python result", prompt, final(analysis, text), text)


def compact_json(value: object) -> str:
    """Return `value` as JSON without spaces, as the model writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _call_analysis(question: Question, setting: Setting) -> str:
    name = question.offer.function.name
    values = ", ".join(f"{key} {value}" for key, value in question.arguments.items())
    return {
        "low": f"Call {name} with {values}",
        "medium": f"The user needs {name}. I call it with {values}",
        "high": f"The user asks for something that I don't know myself, but there are functions. "
        f"The one that fits is {name}. I call it with {values}",
    }[setting.effort]


def _called(draw: Draw, question: Question, setting: Setting) -> str:
    """Return the call as history shows it: re-rendered, or as the model wrote it."""
    random, name = draw.random, question.offer.function.name
    header = random.choice(
        (f"<|start|>assistant to=functions.{name}<|channel|>commentary <|constrain|>json",
         f"<|start|>assistant to=functions.{name}<|channel|>commentary <|constrain|>json",
         f"<|start|>assistant to=functions.{name}<|channel|>commentary json",
         f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json")
    )  # fmt: skip
    arguments = compact_json(question.arguments) if random.random() < 0.7 else json.dumps(question.arguments)
    thought = f"<|start|>assistant<|channel|>analysis<|message|>{_call_analysis(question, setting)}<|end|>"
    return (thought if random.random() < 0.5 else "") + f"{header}<|message|>{arguments}<|call|>"


def _draw_result(draw: Draw, question: Question, names: Names) -> tuple[str, str]:
    """Return what the function answers and the assistant's report of it: every value is copied, none is known."""
    random, family = draw.random, question.offer.family
    if random.random() < 0.35:
        text = _plain_result(draw, names)
        shown = text if random.random() < 0.8 else json.dumps(text)
        return shown, text if text.endswith(".") else f"{text}."
    keys = random.sample(family.result_keys, k=min(len(family.result_keys), random.choice((1, 1, 2, 2, 3))))
    values = {key: _result_value(draw, key, names) for key in keys}
    shown = json.dumps(values) if random.random() < 0.75 else compact_json(values)
    parts = [f"the{copied(key)} is{copied(value)}" for key, value in values.items()]
    text = ", ".join(parts)
    return shown, f"T{text[1:]}."


def _plain_result(draw: Draw, names: Names) -> str:
    random = draw.random
    shape = random.randrange(5)
    if shape == 0:
        return f"{random.choice(CONDITIONS).capitalize()}, {random.randrange(-9, 41)} degrees"
    if shape == 1:
        return f"{random.randrange(41)} degrees and {random.choice(CONDITIONS)}"
    if shape == 2:
        return str(random.randrange(1000))
    if shape == 3:
        return f"It is {names.phrase(random, 2)} in {names.invented(random)}."
    return f"{names.invented(random)} {names.phrase(random, 2)}"


def _result_value(draw: Draw, key: str, names: Names) -> str | int:
    random = draw.random
    if key in {"temperature", "temp", "humidity", "wind", "age", "price", "hour", "minutes", "sum", "total", "value"}:
        return random.randrange(100) if random.random() < 0.7 else random.randrange(10000)
    if key in {"condition", "forecast", "weather", "description"}:
        return random.choice(CONDITIONS)
    if key == "time":
        return f"{random.randrange(24):02d}:{random.randrange(60):02d}"
    if key in {"status", "shipped", "delivered", "sent"}:
        return random.choice(ORDER_STATES)
    return random.choice((names.invented(random), names.phrase(random, 2), names.code(random), random.randrange(1000)))


def _draw_calculation(draw: Draw) -> tuple[str, str, int]:
    """Return (question, Python expression, value) with at least one number beyond 99."""
    random = draw.random
    a, b = draw_large(draw), draw_large(draw) if random.random() < 0.8 else random.randrange(100)
    if random.random() < 0.3:
        a, b = b, a
    sign = random.choice("+++++-*")
    phrases = {"+": SUM_PHRASES, "-": DIFFERENCE_PHRASES, "*": PRODUCT_PHRASES}[sign]
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return random.choice(phrases).format(a=a, b=b), f"{a}{sign}{b}", value


def _python_analysis(expression: str, setting: Setting) -> str:
    return {
        "low": "Use Python.",
        "medium": "The numbers are large. I use Python.",
        "high": f"We need to calculate {_spaced(expression)}. The numbers are too large to do this in my head. "
        "There is a Python tool, so I let it do the work and print the result.",
    }[setting.effort]


def _spaced(expression: str) -> str:
    for sign in "+-*":
        expression = expression.replace(sign, f" {sign} ")
    return expression
