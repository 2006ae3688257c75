"""What the supervisor does next: the single action that brings what is closer to what should be.

A pure function of two values. Repeated, with each action carried out and the world looked at again, it converges from
any state; tests show it by seeds.
"""

from dataclasses import dataclass
from enum import StrEnum


class WorkerState(StrEnum):
    """Where an incarnation of a worker stands."""

    STARTING = "starting"
    READY = "ready"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One incarnation of one worker, as the supervisor sees it."""

    index: int
    """Which of the placement's workers it is."""
    incarnation: int
    """Raised each time the worker is made anew."""
    state: WorkerState
    may_retry: bool = True
    """False while a worker that keeps failing is left alone for a while."""


Members = tuple[tuple[int, int], ...]
"""(index, incarnation) of the workers of a published placement, ascending."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What should be."""

    is_wanted: bool
    """False once the owner has gone, the application was deleted, or a newer revision has taken over."""
    num_workers: int
    """Those with a lower index are made, and made anew when they are lost."""
    num_kept: int = 0
    """Those with a lower index are not removed yet: somebody may still ask them."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is."""

    workers: tuple[WorkerView, ...] = ()
    older_actors: tuple[str, ...] = ()
    """Names of living actors of other revisions of the application."""
    published: Members | None = None
    """Members of the placement that was published last."""
    last_incarnations: tuple[int, ...] = ()
    """By worker index, the newest incarnation that was ever made; 0 for none. Missing ones are 0 too."""
    is_application_up: bool = False
    """Whether the application that this supervisor answers for is deployed."""
    is_application_leaving: bool = False
    """Whether it was told to go and is given time for that."""


@dataclass(frozen=True, slots=True)
class StopOlder:
    """End an actor of another revision: it holds memory that this one needs."""

    name: str


@dataclass(frozen=True, slots=True)
class CreateWorker:
    """Make a worker."""

    index: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class RemoveWorker:
    """End an incarnation, if it still lives, and forget it."""

    index: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish a placement with a new epoch and these members."""

    members: Members


@dataclass(frozen=True, slots=True)
class TakeDownApplication:
    """Delete the application in front."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Nothing is left to supervise: forget the stored state and end."""


@dataclass(frozen=True, slots=True)
class Rest:
    """All is as it should be, or under way."""


Action = StopOlder | CreateWorker | RemoveWorker | Publish | TakeDownApplication | Exit | Rest


def reconcile(desired: Desired, observed: Observed) -> Action:
    """Return the next single action."""
    if not desired.is_wanted:
        return _wind_down(observed)
    return (
        _stop_older(observed)
        or _remove_worker(desired, observed)
        or _publish(desired, observed)
        or _create_worker(desired, observed)
        or Rest()
    )


def _wind_down(observed: Observed) -> Action:
    """The application goes first, so that nothing asks for what is being removed."""
    if observed.is_application_up:
        return Rest() if observed.is_application_leaving else TakeDownApplication()
    if observed.workers:
        return RemoveWorker(observed.workers[0].index, observed.workers[0].incarnation)
    return Exit()


def _stop_older(observed: Observed) -> Action | None:
    return StopOlder(observed.older_actors[0]) if observed.older_actors else None


def _remove_worker(desired: Desired, observed: Observed) -> Action | None:
    """Remove what is lost and may be made anew, what is too many, and all but the newest incarnation."""
    newest = {view.index: view.incarnation for view in sorted(observed.workers, key=lambda view: view.incarnation)}
    for view in observed.workers:
        is_due = view.state is WorkerState.LOST and view.may_retry
        if is_due or view.index >= max(desired.num_workers, desired.num_kept) or view.incarnation != newest[view.index]:
            return RemoveWorker(view.index, view.incarnation)
    return None


def _publish(desired: Desired, observed: Observed) -> Action | None:
    """Publish first when all workers are ready, also those that are to go, then whenever the ready ones change."""
    ready = tuple(sorted((view.index, view.incarnation) for view in _in_state(observed, WorkerState.READY)))
    is_first = observed.published is None
    if ready == observed.published or (is_first and len(ready) < max(desired.num_workers, len(observed.workers))):
        return None
    return Publish(ready)


def _create_worker(desired: Desired, observed: Observed) -> Action | None:
    present = {view.index for view in observed.workers}
    for index in range(desired.num_workers):
        if index not in present:
            return CreateWorker(index, _next_incarnation(index, observed))
    return None


def _next_incarnation(index: int, observed: Observed) -> int:
    made = observed.last_incarnations
    return made[index] + 1 if index < len(made) else 1


def _in_state(observed: Observed, state: WorkerState) -> list[WorkerView]:
    return [view for view in observed.workers if view.state is state]
