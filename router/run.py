"""Run: what the service keeps of a running request: its place, its measurements, its choices."""

from collections.abc import Sequence
from typing import Any

from cluster.engine.sequence import TokenEvent
from router.admission import Ticket
from router.choices import Choice
from router.metrics import Metrics
from router.request_meter import RequestMeter
from router.requests import Usage


class Run:
    """One request from admission to its end. Ending it twice is once."""

    def __init__(self, ticket: Ticket, metrics: Metrics, meter: RequestMeter, *, closes_meter: bool) -> None:
        """Take the place and measure by `meter`, which is closed at the end if nobody else does."""
        self.fingerprint = ""
        self.max_context_tokens = 0
        """Prompt plus output of one sequence, once the request is admitted."""
        self.num_prompt = 0
        self._ticket = ticket
        self._metrics = metrics
        self._meter = meter
        self._closes_meter = closes_meter
        self._choices: Sequence[Choice[Any]] = ()
        self._num_prompts = 0
        self._uncounted_prompts: dict[int, int] = {}
        self._is_over = False
        metrics.take_place()
        meter.begin_run()

    def open(self, choices: Sequence[Choice[Any]], prompt_sizes: Sequence[int]) -> None:
        """Say what will run: the choices of each prompt follow each other, and `prompt_sizes` are in tokens."""
        self._choices = choices
        self.num_prompt = sum(prompt_sizes)
        self._num_prompts = len(prompt_sizes)
        self._uncounted_prompts = dict(enumerate(prompt_sizes))

    def saw(self, choice: int, event: TokenEvent) -> None:
        """Note that an event arrived now; the first token of a prompt shows that an engine took it in."""
        if not event.token_ids:
            return
        self._meter.saw_tokens(choice, len(event.token_ids))
        num_tokens = self._uncounted_prompts.pop(choice * self._num_prompts // len(self._choices), None)
        if num_tokens is not None:
            self._metrics.count_prompt(num_tokens, event.num_cached)
            self._metrics.observe_queue(event.queued_s)

    def usage(self) -> Usage:
        """Return the tokens so far."""
        return Usage(
            num_prompt=self.num_prompt,
            num_cached=self._choices[0].num_cached if self._choices else 0,
            num_completion=sum(choice.num_tokens for choice in self._choices),
            num_reasoning=sum(choice.num_reasoning for choice in self._choices),
        )

    def end(self, outcome: str) -> None:
        """Give the place back and note the outcome: ok, cancelled, or an error's status."""
        if self._is_over:
            return
        self._is_over = True
        self._ticket.release()
        self._metrics.give_place_back()
        self._meter.note(outcome)
        if self._closes_meter:
            self._meter.close(outcome)
        usage = self.usage()
        self._metrics.count_completion(usage.num_completion, usage.num_reasoning)
