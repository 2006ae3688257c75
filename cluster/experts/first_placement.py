"""Where experts are before the first of them is moved: what every process works out for itself, from the config."""

from dataclasses import dataclass

from cluster.cluster_spec import worker_id
from cluster.config import ExpertsSection
from cluster.experts.placement import Placement, with_spare_copies


@dataclass(frozen=True, slots=True)
class Share:
    """How many workers there are to be, and how much of the experts each of them holds."""

    num_workers: int
    copies: int
    """Of each expert, on different workers."""
    num_spare_slots: int = 0
    """Experts of each layer that a worker holds beyond its part of the copies."""


def share_of(section: ExpertsSection) -> Share:
    """Return what the config says of it."""
    return Share(section.num_workers, section.copies, section.num_spare_slots)


def first_placement(share: Share, num_layers: int, num_experts: int, epoch: int = 0) -> Placement:
    """Return the placement to begin with; raises PlacementError if there are more copies than workers.

    Without workers, all experts are beside attention.
    """
    if share.num_workers == 0:
        return Placement.collapsed(num_layers, num_experts, epoch)
    workers = [worker_id(index) for index in range(share.num_workers)]
    placement = Placement.uniform(num_layers, num_experts, workers, share.copies, epoch)
    return with_spare_copies(placement, share.num_spare_slots) if share.num_spare_slots else placement


def current_placement(share: Share, moved: Placement | None, shape: tuple[int, int], epoch: int) -> Placement:
    """Return where the experts of a model, (layers, experts), are at `epoch`: as `moved` says, or as at first.

    A `moved` placement of another shape is of another model, and counts for nothing.
    """
    if moved is None or (moved.num_layers, moved.num_experts) != shape:
        return first_placement(share, *shape, epoch)
    return Placement(epoch, *shape, moved.workers, moved.copies)
