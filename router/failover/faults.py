"""Which processes are struck, how and when. Plans are values; `strike` carries one out."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

SERVE = "ray::ServeReplica:expertmesh:"
TITLES = {
    "worker": "ray::ExpertWorker",
    "attention": f"{SERVE}Attention",
    "supervisor": "ray::Supervisor",
    "controller": "ray::ServeController",
    "edge": f"{SERVE}Edge",
}
"""How the processes of each role call themselves."""
HANG_S = 3.0
"""How long a stopped process stands still."""
_PLANNED_MOMENTS = (0.02, 0.5)
"""While prompts are computed, and in the middle of the answers: as shares of the undisturbed run's time."""

FindPids = Callable[[str], list[int]]
"""Returns the living processes of a role."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One process of a role is killed, or stopped for `HANG_S`."""

    role: str
    is_kill: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a cluster in one run."""

    name: str
    strikes: tuple[Strike, ...]
    pause_s: float = 0.0
    """Between strikes."""

    @property
    def hits_edge(self) -> bool:
        """Return whether it takes the process that holds clients' connections."""
        return any(strike.role == "edge" for strike in self.strikes)


_WORKER, _ATTENTION = Strike("worker"), Strike("attention")
FAULTS = (
    Fault("worker killed", (_WORKER,)),
    Fault("worker hung", (Strike("worker", is_kill=False),)),
    Fault("two workers killed at once", (_WORKER, _WORKER)),
    Fault("worker killed, another while it starts", (_WORKER, _WORKER), pause_s=0.5),
    Fault("worker hung, another killed", (Strike("worker", is_kill=False), _WORKER), pause_s=0.05),
    Fault("attention killed", (_ATTENTION,)),
    Fault("attention hung", (Strike("attention", is_kill=False),)),
    Fault("all attention killed", (_ATTENTION, _ATTENTION)),
    Fault("worker and attention killed", (_WORKER, _ATTENTION)),
    Fault("supervisor killed", (Strike("supervisor"),)),
    Fault("supervisor and worker killed", (Strike("supervisor"), _WORKER)),
    Fault("Serve's controller killed", (Strike("controller"),)),
    Fault("edge killed", (Strike("edge"),)),
)


def moment(round_number: int, seed: int, fault: Fault) -> float:
    """Return when to strike, as a share of the undisturbed run: planned at first, then at random by the seed."""
    if round_number < len(_PLANNED_MOMENTS):
        return _PLANNED_MOMENTS[round_number]
    return random.Random(f"{seed} {round_number} {fault.name}").uniform(0.02, 0.8)


def strike(fault: Fault, find: FindPids) -> tuple[float, int]:
    """Carry out a fault; return when the first blow fell, by the monotonic clock, and how many fell."""
    struck: set[int] = set()
    first_s = 0.0
    for place, one in enumerate(fault.strikes):
        if place:
            time.sleep(fault.pause_s)
        pids = [pid for pid in sorted(find(one.role)) if pid not in struck]
        if not pids:
            continue
        first_s = first_s or time.monotonic()
        struck.add(pids[0])
        os.kill(pids[0], signal.SIGKILL if one.is_kill else signal.SIGSTOP)
        if not one.is_kill:
            threading.Timer(HANG_S, _resume, [pids[0]]).start()
    return first_s, len(struck)


def _resume(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # it was given up as dead meanwhile, and killed
