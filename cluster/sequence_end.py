"""SequenceEnd: what the held-open call of a sequence returns, with errors as values.

Tokens and the finish reason travel by the token stream; this only says that the engine has let the sequence go, or
that it never took it in.
"""

from dataclasses import dataclass

from cluster.engine.sequence import FinishReason
from cluster.errors import ContextOverflow, EngineError, EngineStopped, QueueFull, TokenUnknown

_KINDS: dict[str, type[EngineError]] = {
    kind.__name__: kind for kind in (QueueFull, ContextOverflow, TokenUnknown, EngineStopped, EngineError)
}


@dataclass(frozen=True, slots=True)
class SequenceEnd:
    """How one attempt at a sequence ended at its engine."""

    finish_reason: FinishReason | None = None
    """None if the sequence was refused."""
    refusal: tuple[str, str] | None = None
    """Name and message of the error that refused it."""

    @classmethod
    def refused(cls, error: EngineError) -> "SequenceEnd":
        """Return the end of a sequence that was not taken in."""
        return cls(refusal=(type(error).__name__, str(error)))

    @property
    def error(self) -> EngineError | None:
        """Return the error that refused the sequence, as it was raised at the engine."""
        if self.refusal is None:
            return None
        kind, message = self.refusal
        return _KINDS.get(kind, EngineError)(message)
