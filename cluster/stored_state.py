"""StoredState: what a supervisor finds again after its own death; workers and replicas read there who is wanted."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from cluster.experts.placement import Placement


@dataclass(frozen=True, slots=True)
class StoredState:
    """What a supervisor finds again after its own death, and what workers look at to learn whether they are wanted."""

    secret: str
    last_incarnations: tuple[int, ...] = ()
    epoch: int = -1
    """Of the placement published last; -1 before the first."""
    worker_fingerprint: str | None = None
    """That of the workers that serve: experts give the same bits wherever they are, so all must have it."""
    lease_s: float | None = None
    """How long an owner may be silent; None if nobody in the foreground owns the application."""
    is_wanted: bool = True
    placement: str | None = None
    """Where the experts are since the first of them was moved, as JSON: what a worker made anew is to load."""
    settled: str | None = None
    """The placement to return to once nobody need stand in for a worker any more; None while nobody does."""
    was_deployed: bool = False
    """The application has been there: if it is not, it was deleted."""
    num_workers: int | None = None
    """How many workers were last asked for; None: as many as the config says."""

    def to_json(self) -> str:
        """Return the document that is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StoredState":
        """Return the state of a stored document."""
        document: dict[str, Any] = json.loads(text)
        document["last_incarnations"] = tuple(document["last_incarnations"])
        return cls(**document)

    @property
    def moved_placement(self) -> Placement | None:
        """Return where the experts are since the first of them was moved; None before."""
        return None if self.placement is None else Placement.from_json(self.placement)

    @property
    def settled_placement(self) -> Placement | None:
        """Return the placement to return to; None while no worker stands in for another."""
        return None if self.settled is None else Placement.from_json(self.settled)

    def wants_worker(self, index: int, incarnation: int) -> bool:
        """Return whether an incarnation of a worker is the one that should live."""
        made = self.last_incarnations
        return self.is_wanted and index < len(made) and made[index] == incarnation
