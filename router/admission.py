"""Admission: how many requests an edge replica holds at once. Beyond it, clients are told at once."""

from router.errors import RETRY_AFTER_S, Overloaded


class Ticket:
    """A place among the running requests, until it is given back; giving it back twice is once."""

    def __init__(self, admission: "Admission") -> None:
        self._admission: Admission | None = admission

    def release(self) -> None:
        """Give the place back."""
        if self._admission is not None:
            self._admission.num_running -= 1
            self._admission = None


class Admission:
    """Counts running requests on one event loop."""

    def __init__(self, max_running: int) -> None:
        """Admit at most `max_running` requests at a time."""
        self.max_running = max_running
        self.num_running = 0

    def admit(self) -> Ticket:
        """Return a place; raises Overloaded if there is none."""
        if self.num_running >= self.max_running:
            message = f"This server runs {self.max_running} requests at once, and all places are taken. Try again."
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S)
        self.num_running += 1
        return Ticket(self)
