"""What happens to a token dispatcher, and what it wants done: the two sides of its state machine."""

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from cluster.errors import ExpertError
from cluster.experts.messages import Answer, ExpertRequest
from cluster.experts.placement import IntArray, Placement, WorkerId


@dataclass(frozen=True, slots=True)
class Submit:
    """A layer's rows are ready for the experts. A micro-batch has one layer under way: an older one is forgotten."""

    ticket: int
    """Names this layer of this step and micro-batch in actions; never used twice."""
    step: int
    layer: int
    micro_batch: int
    hidden: Tensor
    """[T, H] in the expert input dtype, on the host."""
    expert_ids: IntArray
    """[T, K]."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A worker can be sent to."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class StreamBroken:
    """A worker can no longer be sent to, and what was sent may never be answered."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """A worker was reached and may not be used."""

    worker: WorkerId
    error: ExpertError


@dataclass(frozen=True, slots=True)
class Answered:
    """A worker's answer arrived: a reply, a lack or a failure."""

    worker: WorkerId
    answer: Answer


@dataclass(frozen=True, slots=True)
class PlacementPublished:
    """There is a placement, perhaps newer than the one in use."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class FallbackOffered:
    """This process can compute every expert from now on, or can no longer."""

    is_there: bool


@dataclass(frozen=True, slots=True)
class Hurry:
    """This process is to end soon: from now on no layer is waited for longer than this."""

    layer_timeout_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


StreamEvent: TypeAlias = StreamOpened | StreamBroken | StreamRefused | Answered
"""What a transport reports."""
Event: TypeAlias = Submit | StreamEvent | PlacementPublished | FallbackOffered | Hurry | Tick


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request to a worker."""

    worker: WorkerId
    request: ExpertRequest


@dataclass(frozen=True, slots=True)
class Complete:
    """All pairs of a layer are there. Said once for each ticket, or Fail is, or neither if it was forgotten."""

    ticket: int
    outputs: Tensor
    """[T, K, H] in the expert output dtype, on the host."""


@dataclass(frozen=True, slots=True)
class Fail:
    """A layer's deadline passed."""

    ticket: int
    error: ExpertError


@dataclass(frozen=True, slots=True)
class RefreshPlacement:
    """Ask for the newest placement: that of `epoch` disagrees with what workers hold, or with which can be reached."""

    epoch: int


Action: TypeAlias = Send | Complete | Fail | RefreshPlacement
