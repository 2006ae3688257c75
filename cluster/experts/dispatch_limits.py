"""DispatchLimits: how long a dispatcher waits, and how much it may ask twice."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """The bounds of one dispatcher; see `ExpertsSection` for what they are by default in a cluster."""

    reply_timeout_s: float = 30.0
    """Longest wait for one send, whatever was measured; then another copy is asked in any case."""
    layer_timeout_s: float = 600.0
    """For all outputs of a layer; then it fails."""
    refresh_interval_s: float = 0.5
    """Between two requests for a placement, which are repeated while a layer waits for one."""
    min_hedge_s: float = 0.1
    """Shortest wait for one send."""
    max_reply_ratio: float = 5.0
    """A send may take so many times as long as usual; then it is hedged, that is, another copy is asked too."""
    hedge_fraction: float = 0.1
    """Share of the sends that may be hedged in the long run."""
