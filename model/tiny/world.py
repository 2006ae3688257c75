"""The little world as a stream of conversations: draws settings and the exchanges that fit them, from one seed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random

from model.tiny.arithmetic import difference_exchange, product_exchange, sum_exchange, too_large_exchange
from model.tiny.chat import date_exchange, memory_exchange, talk_exchange, unknown_exchange
from model.tiny.facts import fact_exchange
from model.tiny.formats import draw_format, format_exchange
from model.tiny.functions import Offer, draw_offer
from model.tiny.names import Names
from model.tiny.setting import EFFORTS, Draw, Exchange, Setting, said
from model.tiny.tools import (
    call_exchange,
    no_function_exchange,
    python_call_exchange,
    python_result_exchange,
    result_exchange,
)

PERSONAS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a friendly assistant.", "Be polite.",
    "You are a helpful assistant. Use the tools when you need them.", "Always be honest.",
    "You are a weather assistant.",
    "You are an expert. Think before you answer.", "Use your tools.", "You answer questions of our customers.",
)  # fmt: skip
BRIEF_ORDERS = ("Answer briefly.", "Be brief.", "Keep your answers short.", "Answer in one word.", "Be concise.")
PLAIN_KINDS = {
    "sum": 34, "difference": 12, "product": 6, "too large": 3, "fact": 20, "chat": 14, "date": 2, "unknown": 8,
    "memory": 12,
}  # fmt: skip
TOOL_KINDS = {"call": 53, "result": 24, "no function": 4, "sum": 4, "fact": 4, "chat": 4, "unknown": 3, "memory": 4}
PYTHON_KINDS = {"python call": 40, "python result": 25, "sum": 15, "fact": 8, "chat": 7, "unknown": 5}
FORMAT_KINDS = {"format": 100}


@dataclass(frozen=True, slots=True)
class Scene:
    """A setting, the offers behind its functions, and the kinds of exchange that fit it with their weights."""

    setting: Setting
    offers: tuple[Offer, ...]
    kinds: dict[str, int]


class World:
    """Draws scenes and exchanges; equal seeds and parts give equal worlds."""

    def __init__(
        self, names: Names, seed: int, wants_held_out: bool = False, times: Mapping[str, int] | None = None
    ) -> None:
        """Draw kinds by their weights, those in `times` so many times as often."""
        self._names = names
        self._times = times or {}
        self._draw = Draw(Random(f"world {seed}"), wants_held_out)

    def scene(self) -> Scene:
        """Return a setting with what belongs to it."""
        random = self._draw.random
        setting = Setting(random.choice(EFFORTS), self._date())
        setting = self._instructed(setting)
        shape = random.random()
        if shape < 0.34:
            return Scene(setting, (), PLAIN_KINDS)
        if shape < 0.84:
            return self._tool_scene(setting)
        if shape < 0.92:
            return Scene(replace(setting, has_python=True), (), PYTHON_KINDS)
        kinds = FORMAT_KINDS
        setting = replace(setting, response_format=draw_format(random), is_brief=False)
        return Scene(setting, (), kinds)

    def exchanges(self, scene: Scene) -> Iterator[Exchange]:
        """Yield exchanges without end, each a branch of its own after the scene's setting."""
        random = self._draw.random
        while True:
            weights = [weight * self._times.get(kind, 1) for kind, weight in scene.kinds.items()]
            exchange = self.exchange(scene, random.choices(list(scene.kinds), weights)[0])
            if scene.setting.response_format is None and random.random() < 0.2:
                exchange = replace(exchange, prompt=self._earlier(scene) + exchange.prompt)
            yield exchange

    def exchange(self, scene: Scene, kind: str) -> Exchange:
        """Return an exchange of one kind under the scene's setting."""
        draw, setting, names = self._draw, scene.setting, self._names
        simple: dict[str, Callable[[Draw, Setting], Exchange]] = {
            "sum": sum_exchange, "difference": difference_exchange, "product": product_exchange,
            "too large": too_large_exchange, "fact": fact_exchange, "chat": talk_exchange, "date": date_exchange,
            "python call": python_call_exchange, "python result": python_result_exchange,
        }  # fmt: skip
        if kind in simple:
            return simple[kind](draw, setting)
        if kind == "unknown":
            return unknown_exchange(draw, setting, names)
        if kind == "memory":
            return memory_exchange(draw, setting, names)
        if kind == "format":
            return format_exchange(draw, setting, names)
        if kind == "no function":
            return no_function_exchange(draw, setting, self._other_offer(scene.offers), names)
        make = {"call": call_exchange, "result": result_exchange}[kind]
        return make(draw, setting, scene.offers, names)

    def _tool_scene(self, setting: Setting) -> Scene:
        random = self._draw.random
        offers: list[Offer] = []
        for _ in range(random.choice((1, 1, 1, 2, 2, 3))):
            offer = draw_offer(random, self._names)
            taken = {one.function.name for one in offers} | {one.family.topic for one in offers}
            if offer.function.name not in taken and offer.family.topic not in taken:
                offers.append(offer)
        functions = tuple(offer.function for offer in offers)
        kinds = TOOL_KINDS
        setting = replace(setting, functions=functions)
        if random.random() < 0.06:
            topics = {offer.family.topic for offer in offers}
            setting, kinds = (
                replace(setting, has_python=True),
                kinds | ({"python call": 20} if "addition" not in topics else {}),
            )
        if random.random() < 0.06:
            setting = replace(setting, response_format=draw_format(random), is_brief=False)
            kinds = {"call": 60, "format": 40}
        return Scene(setting, tuple(offers), kinds)

    def _instructed(self, setting: Setting) -> Setting:
        random = self._draw.random
        shape = random.random()
        if shape < 0.4:
            return setting
        if shape < 0.65:
            return replace(setting, instructions=random.choice(PERSONAS))
        if shape < 0.8:
            order = random.choice(BRIEF_ORDERS)
            before = random.choice(("", "", "You are a helpful assistant. "))
            return replace(setting, instructions=before + order, is_brief=True)
        words = " ".join(self._names.phrase(random, 9).capitalize() + "." for _ in range(random.randint(1, 5)))
        return replace(setting, instructions=random.choice(("", "You are a helpful assistant. ")) + words)

    def _earlier(self, scene: Scene) -> str:
        """Return one or two earlier exchanges as history shows them."""
        random = self._draw.random
        kinds = [kind for kind in scene.kinds if kind in {"sum", "fact", "chat", "result", "memory"}]
        history = ""
        for _ in range(random.choice((1, 1, 2))):
            exchange = self.exchange(scene, random.choice(kinds))
            prompt = exchange.prompt
            if exchange.kind == "result":  # The analysis before an earlier final answer is dropped.
                prompt = _without_analysis(prompt)
            history += prompt + said(exchange.answer)
        return history

    def _other_offer(self, offers: tuple[Offer, ...]) -> Offer:
        topics = {offer.family.topic for offer in offers}
        while True:
            offer = draw_offer(self._draw.random, self._names)
            if offer.family.topic not in topics and offer.family.topic != "addition":
                return offer

    def _date(self) -> str:
        return (date(2024, 7, 1) + timedelta(days=self._draw.random.randrange(2500))).isoformat()


def _without_analysis(prompt: str) -> str:
    start = prompt.find("<|start|>assistant<|channel|>analysis<|message|>")
    return prompt if start < 0 else prompt[:start] + prompt[prompt.index("<|end|>", start) + len("<|end|>") :]
