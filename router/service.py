"""InferenceService: what every API calls. Requests in, a running Generation out; HTTP and gRPC share all of it.

admit ─▶ check readiness ─▶ render ─▶ one SequenceRequest a choice ─▶ Backend.generate
                                                                          │ token events
Generation ◀── updates ── Choice: parse, stop strings, logprobs ◀─────────┘
"""

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TypeVar

from cluster.clock import Clock, MonotonicClock
from cluster.cluster_status import FAILED
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.errors import ContextOverflow, EngineStopped, QueueFull
from model.tokenizer import Tokenizer
from router.admission import Admission
from router.auth import cache_salt, tenant
from router.backend import STOPPED, Backend, Readiness
from router.choices import ChatChoice, Choice, TextChoice
from router.config import Config
from router.errors import RETRY_AFTER_S, ModelNotFound, Unavailable, tells_of_memory
from router.generation import Generation, outcome_of
from router.harmony.conversation import Conversation
from router.harmony.parse import HarmonyParser
from router.harmony.render import Prompt, Renderer
from router.metrics import Metrics
from router.request_meter import RequestMeter, current_meter
from router.requests import ChatRequest, ChatUpdate, Started, TextRequest, TextUpdate
from router.run import Run
from router.structured.turn import given_text, text_constraint

MAX_INLINE_CHARS = 20_000
"""Longer texts are turned into tokens in a thread, so that other requests' tokens do not wait for them."""
READINESS_TTL_S = 2.0
LARGEST_CONTEXT_TOKENS = 131_072
"""What gpt-oss has; the engine ends a sequence at its own limit if that is less."""
_NUM_DRAWN_SEEDS = 2**53
"""JSON readers keep integers exactly up to here."""

U = TypeVar("U", ChatUpdate, TextUpdate)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What clients may call the model, and how much it takes."""

    name: str
    aliases: frozenset[str] = frozenset()
    max_context_tokens: int | None = None
    """Prompt plus output; None if only the engine knows."""

    @classmethod
    def of(cls, config: Config) -> "ServedModel":
        """Return what the config says: the served name, or the checkpoint's own."""
        path = config.model.path
        is_hub_name = path.count("/") == 1 and not path.startswith((".", "/", "~"))
        own = path if is_hub_name else PurePath(path).name
        return cls(config.model.served_name or own, frozenset({own}), config.model.max_context_tokens)


class InferenceService:
    """Turns requests into sequences, and token events into updates. Lives on one event loop."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        config: Config,
        model: ServedModel | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Serve `backend`; `model` may say more of it than the config does."""
        self.tokenizer = tokenizer
        self.limits = config.edge.limits
        self.model = model or ServedModel.of(config)
        self.metrics = Metrics()
        self.created_s = int(time.time())
        self._backend = backend
        self._date = config.edge.conversation_date
        self._renderer = Renderer(tokenizer)
        self._clock = clock or MonotonicClock()
        self._admission = Admission(self.limits.max_running_requests, self._clock)
        self._weights = config.edge.auth.key_weights
        self._readiness: tuple[float, Readiness] | None = None

    async def warm_up(self) -> None:
        """Load what the first request would otherwise wait for: the vocabulary and openai-harmony."""
        await asyncio.to_thread(self._renderer.render, Conversation(()), self.today())

    async def chat(self, request: ChatRequest) -> Generation[ChatUpdate]:
        """Start to answer a conversation. Raises RequestError before anything runs; later errors come while reading."""
        run = await self._admit("chat", request.model)
        try:
            prompt = await self.render(request.conversation)
            tools, token_bytes = request.conversation.callable_tools, self.tokenizer.token_bytes
            choices = [
                ChatChoice(choice, HarmonyParser(token_bytes, tools), request.options.stop, request.has_parallel_calls)
                for choice in range(request.options.num_choices)
            ]
            # Stop strings end what the client sees, not reasoning or headers: the engine is not told of them.
            return self._start(run, request, [prompt], choices, request.notes)
        except BaseException as error:
            run.end(outcome_of(error))
            raise

    async def complete(self, request: TextRequest) -> Generation[TextUpdate]:
        """Start to continue prompts. Raises RequestError before anything runs; later errors come while reading."""
        run = await self._admit("completion", request.model)
        try:
            constraint = None if request.grammar is None else text_constraint(request.grammar)
            prompts = [
                _scored(token_ids) if request.is_scored else Prompt(token_ids, constraint, stop_ids=())
                for token_ids in request.prompts
            ]
            stop = request.options.stop
            choices = [
                TextChoice(place * request.options.num_choices + choice, self.tokenizer, stop, prompt.num_given)
                for place, prompt in enumerate(prompts)
                for choice in range(request.options.num_choices)
            ]
            return self._start(run, request, prompts, choices)
        except BaseException as error:
            run.end(outcome_of(error))
            raise

    async def render(self, conversation: Conversation) -> Prompt:
        """Return the prompt; raises InvalidRequest for a tool, TokenizerError for a text that cannot be rendered."""
        date = conversation.date or self.today()
        if sum(len(turn.text) for turn in conversation.turns) <= MAX_INLINE_CHARS and not conversation.functions:
            return self._renderer.render(conversation, date)
        return await asyncio.to_thread(self._renderer.render, conversation, date)

    async def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text as ordinary text; raises TokenizerError for one that cannot be split."""
        if len(text) <= MAX_INLINE_CHARS:
            return tuple(self.tokenizer.encode(text))
        return tuple(await asyncio.to_thread(self.tokenizer.encode, text))

    async def readiness(self, max_age_s: float = READINESS_TTL_S) -> Readiness:
        """Return whether the backend serves; a yes is believed for `max_age_s`."""
        now_s = self._clock.now_s()
        if self._readiness is None or not self._readiness[1].is_ready or now_s - self._readiness[0] >= max_age_s:
            self._readiness = (now_s, await self._backend.ready())
        return self._readiness[1]

    async def max_context_tokens(self) -> int | None:
        """Return what prompt and output of a sequence may have together; None until an engine is there."""
        return (await self.readiness()).max_context_tokens or self.model.max_context_tokens

    async def render_metrics(self) -> bytes:
        """Return the metrics of this edge and of the engines behind it, in Prometheus' text format."""
        stats = await self._backend.stats()
        self.metrics.set_engine(stats.num_running, stats.num_waiting, stats.num_used_blocks, stats.num_free_blocks)
        self.metrics.set_drafts(stats.num_drafted, stats.num_accepted)
        self.metrics.set_rescued(stats.num_rescued)
        if stats.balance is not None:
            self.metrics.set_balance(stats.balance)
        return self.metrics.render()

    def new_meter(self, endpoint: str) -> RequestMeter:
        """Begin to measure a request."""
        return RequestMeter(self.metrics, endpoint, self._clock)

    def today(self) -> str:
        """Return the date that a conversation has that begins now, as YYYY-MM-DD."""
        return self._date or datetime.now(UTC).date().isoformat()

    def check_model(self, name: str | None) -> None:
        """Raise ModelNotFound if `name` is not what is served; no name is whatever is served."""
        if name and name != self.model.name and name not in self.model.aliases:
            message = f"The model {name[:100]!r} is not served here; {self.model.name!r} is."
            raise ModelNotFound(message, "model")

    async def _admit(self, endpoint: str, model: str | None) -> Run:
        self.check_model(model)
        meter = current_meter()
        is_measured = meter is not None and meter.is_open_for(self.metrics)
        run = Run(
            self._admission.admit(tenant()),
            self.metrics,
            meter if meter is not None and is_measured else self.new_meter(endpoint),
            closes_meter=not is_measured,
        )
        try:
            readiness = await self.readiness()
            if not readiness.is_ready:
                raise not_ready(readiness)
            run.fingerprint = readiness.fingerprint or ""
            run.max_context_tokens = await self.max_context_tokens() or LARGEST_CONTEXT_TOKENS
        except BaseException as error:
            run.end(outcome_of(error))
            raise
        return run

    def _start(
        self,
        run: Run,
        request: ChatRequest | TextRequest,
        prompts: Sequence[Prompt],
        choices: Sequence[Choice[U]],
        notes: tuple[str, ...] = (),
    ) -> Generation[U]:
        options = request.options
        seed = secrets.randbelow(_NUM_DRAWN_SEEDS) if options.seed is None else options.seed
        run.open(choices, [prompt.num_tokens for prompt in prompts])
        started = Started(
            request_id=uuid.uuid4().hex,
            created_s=int(time.time()),
            model=self.model.name,
            fingerprint=run.fingerprint,
            seed=seed,
            num_prompt_tokens=run.num_prompt,
            notes=notes,
        )
        asked = [one for one in (request.timeout_s, options.timeout_s) if one is not None]
        timeout_s = min([self.limits.request_timeout_s, *asked])
        streams = [
            self._updates(
                run,
                choice,
                self._backend.generate(self._sequence(run, started, request, prompt, choice.choice), timeout_s),
            )
            for choice, prompt in zip(
                choices, (prompt for prompt in prompts for _ in range(options.num_choices)), strict=True
            )
        ]
        return Generation(started, streams, run.usage, run.end)

    def _sequence(
        self, run: Run, started: Started, request: ChatRequest | TextRequest, prompt: Prompt, choice: int
    ) -> SequenceRequest:
        options, room = request.options, run.max_context_tokens - prompt.num_tokens
        if room < 1:
            raise ContextOverflow(
                f"this model's maximum context length is {run.max_context_tokens} tokens for prompt and output "
                f"together; the prompt has {prompt.num_tokens} tokens and leaves no room for output"
            )
        params = options.params(
            choice % options.num_choices,
            started.seed,
            prompt.num_given + (room if options.max_tokens is None else min(options.max_tokens, room)),
            prompt.stop_ids,
            # Of a prompt that is scored, the engine would find them in the prompt.
            options.stop if isinstance(request, TextRequest) and not request.is_scored else (),
        )
        name = f"{started.request_id}-{choice}"
        return SequenceRequest(
            name,
            prompt.token_ids,
            params,
            priority=options.priority,
            cache_salt=cache_salt(),
            tenant=tenant(),
            weight=self._weights.get(tenant(), 1.0),
            constraint=prompt.constraint,
        )

    async def _updates(
        self, run: Run, choice: Choice[U], events: AsyncGenerator[TokenEvent, None]
    ) -> AsyncGenerator[U, None]:
        async with aclosing(events):
            try:
                async for event in events:
                    run.saw(choice.choice, event)
                    update = choice.on(event)
                    if update is not None:
                        yield update
                    if choice.finish is not None:
                        return
            except QueueFull as error:
                raise self._admission.overloaded("The engines' queues are full.") from error
        raise EngineStopped("the backend's events ended without a finish reason")


def _scored(token_ids: tuple[int, ...]) -> Prompt:
    """Return a prompt whose tokens after the first are output that is given, so that each gets its logprobs."""
    given = token_ids[1:]
    return Prompt(token_ids[:1], given_text(given) if given else None, stop_ids=(), num_given=len(given))


def not_ready(readiness: Readiness) -> Unavailable:
    """Return what a client is told while nothing can be served: a load goes on, or the engine has stopped."""
    if readiness.stage not in {STOPPED, FAILED}:
        message = f"The model is not ready: {readiness.stage}, {readiness.progress:.0%}. Try again."
        return Unavailable(message, code="not_ready", retry_after_s=RETRY_AFTER_S)
    why = "It ran out of memory. " if tells_of_memory(readiness.detail) else ""
    message = f"The engine has stopped after failures and takes no requests. {why}The server's log and /ready say more."
    return Unavailable(message, code="engine_stopped", retry_after_s=RETRY_AFTER_S)
