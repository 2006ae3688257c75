"""EngineLimits: the numbers that an engine is built with, and what they refuse."""

from dataclasses import dataclass, field

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.scheduler import StepLimits
from cluster.engine.sequence import SequenceRequest
from cluster.engine.speculate import SpeculationLimits
from cluster.errors import ContextOverflow, EngineError, TokenUnknown


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine can take. `max_context_tokens` already fits the KV cache."""

    step: StepLimits
    max_waiting_sequences: int
    max_context_tokens: int
    """Prompt plus output of one sequence."""
    vocab_size: int
    eos_ids: tuple[int, ...]
    geometry: BlockGeometry
    num_blocks: BlockCount
    """In each group, block 0 included."""
    has_logit_digests: bool = False
    keeps_prefixes: bool = True
    """Keep computed beginnings for sequences to come."""
    speculation: SpeculationLimits = field(default_factory=SpeculationLimits)

    def __post_init__(self) -> None:
        """Refuse limits under which some sequence would wait for ever."""
        if self.step.max_step_tokens < self.step.max_running_sequences:
            raise ValueError(
                f"max_step_tokens is {self.step.max_step_tokens}; it must be at least max_running_sequences, which is "
                f"{self.step.max_running_sequences}: each running sequence adds a token in every step"
            )
        needed = self.geometry.settled(self.max_context_tokens).plus(BlockCount(1, 1))
        if not self.num_blocks.covers(needed):
            raise ValueError(
                f"{self.num_blocks} KV blocks do not hold one sequence of {self.max_context_tokens} tokens; "
                f"it needs {needed}"
            )

    @property
    def max_sequences(self) -> int:
        """Return how many sequences may be inside at the same time, running or waiting."""
        return self.step.max_running_sequences + self.max_waiting_sequences

    def check_request(self, request: SequenceRequest) -> None:
        """Raise ContextOverflow or TokenUnknown, or EngineError for what else no engine of this model can serve."""
        num_tokens = len(request.prompt_ids)
        if not 0 <= request.num_released < max(num_tokens, 1):
            raise EngineError(f"{request.num_released} of {num_tokens} prompt tokens cannot be released output")
        if num_tokens == 0:
            raise EngineError("the prompt has no tokens; it must have at least one")
        if num_tokens - request.num_released >= self.max_context_tokens:
            raise ContextOverflow(
                f"this model's maximum context length is {self.max_context_tokens} tokens for prompt and output "
                f"together; the prompt has {num_tokens - request.num_released} tokens and leaves no room for output"
            )
        if num_tokens > self.max_context_tokens:
            raise ContextOverflow(
                f"prompt and released output have {num_tokens} tokens; together they may have {self.max_context_tokens}"
            )
        self._check_ids("prompt_ids", request.prompt_ids)
        self._check_ids("logit_bias", tuple(token_id for token_id, _ in request.params.logit_bias))

    def _check_ids(self, field: str, token_ids: tuple[int, ...]) -> None:
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < self.vocab_size):
            wrong = next(token_id for token_id in token_ids if not 0 <= token_id < self.vocab_size)
            raise TokenUnknown(f"{field} holds {wrong}, but this model's vocabulary has {self.vocab_size} token ids")
