"""RequestMeter: measures one request from its arrival on, and counts it exactly once, by how it ended.

Whoever hears of a request first opens its meter and closes it: the gate over HTTP, the servicer over gRPC. So what is
refused before anything runs is counted too. The service finds the meter by the context that it is called in:

    gate ── measured ──▶ routes ──▶ InferenceService ──▶ Run: tokens, and how the run ended
      └──────────────── closes: an error that it answered with, else what the run has noted, else ok
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from cluster.clock import Clock
from router.generation import OUTCOME_LEFT, OUTCOME_OK, outcome_of

if TYPE_CHECKING:
    from router.metrics import Metrics

CLIENT_LEFT_STATUS = 499
_current: ContextVar["RequestMeter | None"] = ContextVar("request_meter", default=None)


class RequestMeter:
    """Measures one request, whatever its number of choices and runs. Closing it twice is once."""

    def __init__(self, metrics: "Metrics", endpoint: str, clock: Clock) -> None:
        """Start now."""
        self._metrics = metrics
        self._endpoint = endpoint
        self._clock = clock
        self._started_s = clock.now_s()
        self._last_token_s: dict[int, float] = {}
        self._noted = OUTCOME_OK
        self._has_run = False
        self._has_token = False
        self._is_closed = False

    def is_open_for(self, metrics: "Metrics") -> bool:
        """Return whether it still runs, and measures for `metrics`."""
        return not self._is_closed and self._metrics is metrics

    def begin_run(self) -> None:
        """Note that the request was given a place: from here on its duration is that of an answer."""
        self._has_run = True
        self._last_token_s.clear()

    def saw_tokens(self, choice: int, num_tokens: int) -> None:
        """Note that `num_tokens` tokens of a choice arrived now."""
        now_s = self._clock.now_s()
        last_s = self._last_token_s.get(choice)
        if last_s is not None:
            self._metrics.observe_between_tokens((now_s - last_s) / num_tokens)
        elif not self._has_token:
            self._has_token = True
            self._metrics.observe_first_token(now_s - self._started_s)
        self._last_token_s[choice] = now_s

    def note(self, outcome: str) -> None:
        """Note how a run of the request ended; the last one holds."""
        self._noted = outcome

    def close(self, outcome: str) -> None:
        """Count the request: with `outcome` if that is no success, else with what was noted."""
        if self._is_closed:
            return
        self._is_closed = True
        final = self._noted if outcome == OUTCOME_OK else outcome
        self._metrics.count_request(self._endpoint, final)
        if self._has_run:
            self._metrics.observe_request(final, self._clock.now_s() - self._started_s)

    def close_answered(self, status: int) -> None:
        """Count the request by the HTTP status that it was answered with."""
        is_error = status >= 400 and status != CLIENT_LEFT_STATUS
        self.close(str(status) if is_error else OUTCOME_LEFT if status == CLIENT_LEFT_STATUS else OUTCOME_OK)


def current_meter() -> RequestMeter | None:
    """Return the meter of the request that is being answered, if somebody measures it."""
    return _current.get()


@contextmanager
def measured(meter: RequestMeter) -> Generator[RequestMeter]:
    """Let what runs inside find the meter; close it by how that ends, unless it has been closed before."""
    _current.set(meter)
    try:
        yield meter
    except BaseException as error:
        meter.close(outcome_of(error))
        raise
    meter.close(OUTCOME_OK)
