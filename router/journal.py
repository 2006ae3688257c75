"""Journal: what one choice has released, and what becomes of it when its attention replica dies. No I/O, no clock.

    event ──▶ on_event ──▶ Release | Resume | Fail | None (late, repeated, or after the end)
    loss  ──▶ on_lost  ──▶ Resume | Fail | None
    move  ──▶ on_moved ──▶ Resume | None
    Resume ──▶ next_attempt() ──▶ the request: prompt + released ids, attempt + 1

A token is released once, in the order of its index, and noted here before anyone sees it. The engine derives the state
of penalties, limits and stop strings from the released ids; prefill of them gives the same next token.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.errors import EngineStopped, HandshakeRefused, QueueFull

T = TypeVar("T")
_LOST = frozenset({FinishReason.UNAVAILABLE, FinishReason.ABORT})
"""Ends of an attempt that are no ends of a choice: nobody asked for them."""


@dataclass(frozen=True, slots=True)
class ResumeLimits:
    """How long and how often a choice is resumed."""

    max_resumes: int = 3
    """Replicas lost in a row while they ran the choice, without one new token from it."""
    max_wait_s: float = 120.0
    """Without a token after a loss; then the choice fails."""
    max_concurrent: int = 8
    """Resumes of one edge whose first token has not come yet."""
    first_pause_s: float = 0.05
    max_pause_s: float = 1.0
    """Before an attempt; the pause doubles from the first to the longest while no token comes."""


@dataclass(frozen=True, slots=True)
class Release:
    """Give the event to the reader; its tokens are journalled."""

    event: TokenEvent


@dataclass(frozen=True, slots=True)
class Resume:
    """Ask for the next attempt after a pause."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell the reader that the choice ends here."""

    error: Exception


class Journal:
    """One choice from its first attempt to its end."""

    def __init__(self, request: SequenceRequest, limits: ResumeLimits) -> None:
        """Follow `request`, which may itself be a resume."""
        self._request = request
        self._limits = limits
        self._released: list[int] = []
        self._attempt: int | None = None
        self._num_cached: int | None = None
        self._fingerprint: str | None = None
        self._is_ended = False
        self._num_losses = 0
        self._pause_s = limits.first_pause_s
        self._lost_since_s: float | None = None

    @property
    def num_output(self) -> int:
        """Return the output ids released so far, those of the request itself included."""
        return self._request.num_released + len(self._released)

    @property
    def is_resumed(self) -> bool:
        """Return whether this is not the first attempt."""
        return self._attempt is not None and self._attempt > self._request.attempt

    def next_attempt(self) -> SequenceRequest | None:
        """Return the request of the next attempt; None once the choice has ended or was cancelled.

        A resume runs before new work of the same priority.
        """
        if self._is_ended:
            return None
        if self._attempt is None:
            self._attempt = self._request.attempt
            return self._request
        self._attempt += 1
        return replace(
            self._request,
            prompt_ids=(*self._request.prompt_ids, *self._released),
            num_released=self.num_output,
            attempt=self._attempt,
            priority=self._request.priority - 1,
        )

    def bind(self, fingerprint: str) -> None:
        """Note whose numerics the next tokens have. Raises HandshakeRefused if the released ones had others."""
        if self.num_output and self._fingerprint not in {None, fingerprint}:
            raise HandshakeRefused(
                f"sequence {self._request.sequence_id} began with numerics {self._fingerprint} and would go on "
                f"with {fingerprint}: its tokens could change"
            )
        self._fingerprint = fingerprint

    def on_event(self, event: TokenEvent, now_s: float) -> Release | Resume | Fail | None:
        """Take an event of any attempt; release what is new of it, and nothing beyond a gap."""
        if self._is_ended or event.attempt != self._attempt:
            return None
        if event.finish_reason in _LOST:
            return self.on_lost(EngineStopped(event.error or f"the engine ended: {event.finish_reason}"), True, now_s)
        if event.index > self.num_output:
            gap = f"the tokens {self.num_output} to {event.index - 1} never came"
            return self.on_lost(EngineStopped(gap), True, now_s)
        fresh = self._unreleased(event)
        if not fresh.token_ids and fresh.finish_reason is None:
            return None
        self._note(fresh)
        return Release(replace(fresh, num_cached=self._num_cached or 0))

    def on_lost(self, error: Exception, was_running: bool, now_s: float) -> Resume | Fail | None:
        """Take the loss of the attempt under way; `was_running` if its replica had taken the sequence."""
        if self._is_ended:
            return None
        self._num_losses += was_running
        self._lost_since_s = now_s if self._lost_since_s is None else self._lost_since_s
        if not self._may_resume(error, now_s):
            self._is_ended = True
            return Fail(error)
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._limits.max_pause_s)
        return Resume(pause_s)

    def on_moved(self) -> Resume | None:
        """Take that the replica of the attempt under way is to go: no loss, so the next attempt begins at once."""
        return None if self._is_ended else Resume(pause_s=0.0)

    def cancel(self) -> None:
        """End the choice for good: no event is released and no attempt begins after this."""
        self._is_ended = True

    def _may_resume(self, error: Exception, now_s: float) -> bool:
        is_late = self._lost_since_s is not None and now_s - self._lost_since_s > self._limits.max_wait_s
        if is_late or self._num_losses > self._limits.max_resumes:
            return False
        return isinstance(error, EngineStopped) or (isinstance(error, QueueFull) and self.is_resumed)

    def _unreleased(self, event: TokenEvent) -> TokenEvent:
        num_known = self.num_output - event.index
        if num_known == 0:
            return event
        return replace(
            event,
            index=self.num_output,
            token_ids=_rest(event.token_ids, num_known),
            logprobs=_rest(event.logprobs, num_known),
            digests=_rest(event.digests, num_known),
        )

    def _note(self, event: TokenEvent) -> None:
        self._released += event.token_ids
        self._is_ended = event.finish_reason is not None
        if self._num_cached is None:
            self._num_cached = event.num_cached
        if event.token_ids:
            self._num_losses, self._lost_since_s = 0, None
            self._pause_s = self._limits.first_pause_s


def _rest(items: tuple[T, ...], num_known: int) -> tuple[T, ...]:
    return items[num_known:]
