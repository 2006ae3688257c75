"""Machinery: what carries a supervisor's actions out; Ray, or a simulated world."""

from typing import Protocol

from cluster.moves import Order, PlanMoves
from cluster.stored_state import StoredState


class Machinery(Protocol):
    """Each call begins something and returns; what becomes of it is told to the supervision later."""

    def store(self, state: StoredState) -> None:
        """Write the state where it outlives this process."""
        ...

    def create_worker(self, index: int, incarnation: int) -> None:
        """Begin to make a worker; its events follow."""
        ...

    def remove_worker(self, index: int, incarnation: int) -> None:
        """End a worker, dead or alive."""
        ...

    def move(self, order: Order) -> None:
        """Begin to have a worker load or drop experts; `Supervision.moved` or `move_failed` follows."""
        ...

    def plan(self, action: PlanMoves) -> None:
        """Begin to work out the next placement; `Supervision.planned` follows."""
        ...

    def stop_older(self, name: str) -> None:
        """End an actor of another revision."""
        ...

    def take_down_application(self) -> None:
        """Delete the application in front."""
        ...

    def exit(self) -> None:
        """Forget the stored state and end this process."""
        ...
