"""What a step is told and what it answers, and the events and actions of the engine."""

from dataclasses import dataclass

from cluster.engine.scheduler import Chunk
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.grammar.compiler import Prepared
from cluster.grammar.constraint import Constraint
from model.batch import BlockTables
from model.sampler import SampledToken, SampleRow


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: rows to compute and rows to sample."""

    chunks: tuple[Chunk, ...]
    """Who brings which rows. While the step is under way their known tokens do not change."""
    block_tables: BlockTables
    """Of the chunks' sequences, in that order."""
    sample_rows: tuple[SampleRow, ...]
    """Those of each chunk, `num_samples` of them, in the chunks' order."""
    wants_digests: bool


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave."""

    tokens: tuple[SampledToken, ...]
    """One for each of the plan's sample rows."""
    digests: tuple[str, ...] = ()
    """Of the logits they were sampled from, if the plan wants them."""


@dataclass(frozen=True, slots=True)
class Admit:
    """A sequence that has passed `Engine.check_request`."""

    request: SequenceRequest


@dataclass(frozen=True, slots=True)
class Abort:
    """Nobody waits for a sequence any more. Unknown ones, and older attempts, are no error."""

    sequence_id: str
    attempt: int | None = None
    """Only this attempt; None means whichever is here."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """The step under way has ended well."""

    result: StepResult


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step under way has ended with an error."""

    error: str
    is_fatal: bool
    """The engine's own state can no longer be trusted: it stops."""
    reason: FinishReason = FinishReason.ERROR
    """What the step's sequences end with."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The engine is to end, and with it every sequence."""

    reason: str


Event = Admit | Abort | Prepared | StepDone | StepFailed | Stop


@dataclass(frozen=True, slots=True)
class RunStep:
    """Run this step and report StepDone or StepFailed. At most one is under way."""

    plan: StepPlan


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell these to whoever waits for them."""

    events: tuple[TokenEvent, ...]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the guide of a sequence and report Prepared, while other sequences run."""

    request: SequenceRequest
    constraint: Constraint


Action = RunStep | Emit | Prepare
