"""Which lost responses an edge may run again: a response is lost when whoever ran it has stopped renewing its lease."""

from router.errors import Unavailable
from router.store_rows import StoredResponse

MAX_RUNS = 3
"""A response that has lost so many edges is not given to a further one: it may be what ended them."""
GIVE_UP_S = 900.0
"""Nobody waits any more for a response that was left for so long, as by a server that is started again the next day."""
MAX_ADOPTED = 8
"""Responses that an edge runs in other edges' stead at once: new work must not wait for all of a dead edge's."""
ADOPT_INTERVAL_S = 3.0
"""How often an edge looks for lost responses."""
MAX_ADOPT_INTERVAL_S = 60.0
"""The same while that fails again and again."""


def may_run_again(stored: StoredResponse) -> bool:
    """Return whether a lost response may still be taken over."""
    is_late = stored.lost_s is not None and stored.lost_s >= GIVE_UP_S
    return stored.request is not None and stored.num_runs < MAX_RUNS and not is_late


def why_failed(stored: StoredResponse) -> Unavailable:
    """Return what a client is told of a lost response that nobody may run again."""
    if stored.num_runs >= MAX_RUNS:
        return Unavailable(f"This response was begun {stored.num_runs} times, and each time its server stopped.")
    return Unavailable("The server that ran this response stopped before it was done.")
