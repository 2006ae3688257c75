"""Turn: what an engine was given and what it said, and what of that a client can see."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.engine.sequence import SequenceRequest, TokenEvent
from model.tokenizer import Tokenizer
from router.api.chat_reply import ChatReply
from router.choices import ChatChoice
from router.harmony.parse import HarmonyParser
from router.harmony.recipients import CallableTools
from router.requests import Started

_NOBODY = Started("", 0, "", "", 0, 0)


@dataclass(slots=True)
class Spoken:
    """One sequence. Times are of the monotonic clock."""

    admitted_s: float
    events: list[TokenEvent] = field(default_factory=list[TokenEvent])
    times_s: list[float] = field(default_factory=list[float])
    """When the engine told each event."""

    def visible(self, tokenizer: Tokenizer) -> tuple[list[float], str]:
        """Return when each piece that a client sees was there, and the text of all, as the edge makes them."""
        choice = ChatChoice(0, HarmonyParser(tokenizer.token_bytes, CallableTools()), ())
        reply = ChatReply(_NOBODY, tokenizer, shows_reasoning=True, has_logprobs=False)
        times_s: list[float] = []
        texts: list[str] = []
        for at_s, event in zip(self.times_s, self.events, strict=True):
            update = choice.on(event)
            chunk = None if update is None else reply.chunk(update)
            if chunk is not None:
                message = chunk["choices"][0]["delta"]
                times_s.append(at_s)
                texts.append((message.get("reasoning") or "") + (message.get("content") or ""))
        return times_s, "".join(texts)


@dataclass(slots=True)
class Turn:
    """All sequences of a turn by their seeds."""

    spoken: dict[int, Spoken] = field(default_factory=dict[int, Spoken])
    cpu_s: float = 0.0
    """Processor time of the process in which the engine ran."""
    _by_id: dict[str, Spoken] = field(default_factory=dict[str, Spoken])

    def admit(self, at_s: float, request: SequenceRequest) -> None:
        """Note a sequence that the engine is given now."""
        self._by_id[request.sequence_id] = self.spoken[request.params.seed] = Spoken(at_s)

    def take(self, at_s: float, events: Sequence[TokenEvent]) -> None:
        """Note the events of a step."""
        for event in events:
            spoken = self._by_id[event.sequence_id]
            spoken.events.append(event)
            spoken.times_s.append(at_s)

    @property
    def num_tokens(self) -> int:
        """Return all tokens that the engine said."""
        return sum(len(event.token_ids) for one in self.spoken.values() for event in one.events)
