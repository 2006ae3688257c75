"""Run: what the service keeps of a running request: its place, its measurements, its choices."""

from collections.abc import Sequence
from typing import Any

from cluster.clock import Clock
from cluster.engine.sequence import TokenEvent
from router.admission import Ticket
from router.choices import Choice
from router.metrics import Metrics
from router.requests import Usage


class Run:
    """One request from admission to its end. Ending it twice is once."""

    def __init__(self, ticket: Ticket, metrics: Metrics, endpoint: str, clock: Clock) -> None:
        """Take the place and begin to measure."""
        self.fingerprint = ""
        self.max_context_tokens = 0
        """Prompt plus output of one sequence, once the request is admitted."""
        self.num_prompt = 0
        self._ticket = ticket
        self._metrics = metrics
        self._meter = metrics.start(endpoint, clock)
        self._choices: Sequence[Choice[Any]] = ()
        self._is_over = False

    def open(self, choices: Sequence[Choice[Any]], num_prompt: int) -> None:
        """Say what will run: `num_prompt` tokens in all prompts together."""
        self._choices = choices
        self.num_prompt = num_prompt

    def saw(self, choice: int, event: TokenEvent) -> None:
        """Note that an event arrived now."""
        if event.token_ids:
            self._meter.saw_tokens(choice, len(event.token_ids))

    def usage(self) -> Usage:
        """Return the tokens so far."""
        return Usage(
            num_prompt=self.num_prompt,
            num_cached=self._choices[0].num_cached if self._choices else 0,
            num_completion=sum(choice.num_tokens for choice in self._choices),
            num_reasoning=sum(choice.num_reasoning for choice in self._choices),
        )

    def end(self, outcome: str) -> None:
        """Give the place back and count the request with its outcome: ok, cancelled, or an error's code."""
        if self._is_over:
            return
        self._is_over = True
        self._ticket.release()
        self._meter.end(outcome)
        usage = self.usage()
        self._metrics.count_prompt(usage.num_prompt, usage.num_cached)
        self._metrics.count_completion(usage.num_completion, usage.num_reasoning)
