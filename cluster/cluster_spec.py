"""ClusterSpec: what the supervisor, the workers and the attention replicas of one application are made from; and the
names by which they find each other.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.config import AttentionSection, EngineSection, ExpertsSection, ModelSection, NumericsSection


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """One revision of one application."""

    application: str
    model: ModelSection
    numerics: NumericsSection
    engine: EngineSection
    experts: ExpertsSection
    attention: AttentionSection
    build: str = ""
    """What else makes processes of one revision differ from another's: version, runtime environment."""

    @property
    def revision(self) -> str:
        """Return ten hex digits over all that a worker is made from: an equal one may keep its workers."""
        parts = [section.model_dump_json() for section in (self.model, self.numerics, self.experts)]
        return hashlib.sha256("\n".join([*parts, self.build]).encode()).hexdigest()[:10]

    @property
    def supervisor_name(self) -> str:
        """Return the actor name of this revision's supervisor."""
        return f"{_prefix(self.application)}:{self.revision}:supervisor"

    def worker_name(self, index: int, incarnation: int) -> str:
        """Return the actor name of an incarnation of a worker."""
        return f"{_prefix(self.application)}:{self.revision}:worker:{index}:{incarnation}"

    def older_names(self, names: Iterable[str]) -> list[str]:
        """Return those actor names that belong to other revisions of the application, supervisors first.

        A supervisor goes before its workers, or it would make them anew.
        """
        own, ours = f"{_prefix(self.application)}:", f"{_prefix(self.application)}:{self.revision}:"
        others = [name for name in names if name.startswith(own) and not name.startswith(ours)]
        return sorted(others, key=lambda name: (not name.endswith(":supervisor"), name))

    @property
    def state_key(self) -> str:
        """Return the key of this revision's stored state."""
        return f"{_prefix(self.application)}:{self.revision}:state"

    @property
    def current_key(self) -> str:
        """Return the key that holds the revision in charge of the application."""
        return f"{_prefix(self.application)}:current"


def worker_id(index: int) -> str:
    """Return the id of a worker in placements, which is its name for people too: it stays when it is made anew."""
    return f"worker-{index}"


def _prefix(application: str) -> str:
    return f"expertmesh:{application}"
