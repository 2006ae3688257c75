"""GrammarCompiler: makes guides off the engine's thread, within limits, and keeps compiled grammars for the next.

    engine's thread:   submit(request) ──▶ bounded by the engine's own queue ──▶ compile threads ──▶ on_done
                       overdue(now) ─── those that take too long are given up

A thread that is held by a grammar beyond its time goes on, since nothing can end it; the library's own limits do.
Constraints without a grammar of a client's, as those of most requests with tools, have a thread of their own: they wait
for nobody's grammar.
"""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cluster.clock import Clock, MonotonicClock
from cluster.engine.sequence import SequenceRequest
from cluster.errors import GrammarRefused
from cluster.grammar.constraint import Constraint, GrammarKind, GrammarSpec
from cluster.grammar.guide import TurnGuide
from cluster.grammar.limits import GrammarLimits
from cluster.grammar.matcher import GrammarLibrary, GrammarMatcher

logger = logging.getLogger(__name__)
_STACK_BYTES = 256 * 1024 * 1024
"""Of a compile thread. Chains of rules are followed by recursion; this is address space, of which little is touched."""

Key = tuple[str, int]
"""Sequence and attempt."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of a sequence's constraint: a guide that has taken the released output, or a refusal."""

    sequence_id: str
    attempt: int
    guide: TurnGuide | None
    refusal: str | None = None


OnDone = Callable[[Prepared], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A constraint to be compiled."""

    request: SequenceRequest
    constraint: Constraint
    on_done: OnDone
    submitted_s: float

    @property
    def key(self) -> Key:
        return self.request.sequence_id, self.request.attempt


class GrammarCompiler:
    """Compiles for one engine. `library` is called once, by the first thread that has something to compile."""

    def __init__(
        self,
        limits: GrammarLimits,
        vocab_size: int,
        library: Callable[[GrammarLimits], GrammarLibrary],
        clock: Clock | None = None,
    ) -> None:
        """Start without threads: they begin with the first constraint."""
        self.limits = limits
        self._vocab_size = vocab_size
        self._load = library
        self._library: GrammarLibrary | None = None
        self._loaded_s: float | None = None
        self._clock = clock or MonotonicClock()
        self._cache = GrammarCache(limits.max_cached_grammars)
        self._lock = threading.Lock()
        self._library_lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._quick_jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._open: dict[Key, _Job] = {}
        self._has_threads = False

    @property
    def num_cached(self) -> int:
        """Return how many compiled grammars are kept."""
        return len(self._cache)

    def submit(self, request: SequenceRequest, constraint: Constraint, on_done: OnDone) -> None:
        """Make the guide of a request; `on_done` is called from another thread, once, unless it is overdue before."""
        job = _Job(request, constraint, on_done, self._clock.now_s())
        with self._lock:
            self._open[job.key] = job
            self._start_threads()
        (self._jobs if _has_clients_grammar(constraint) else self._quick_jobs).put(job)

    def overdue(self) -> list[Prepared]:
        """Return the refusals of those that have taken too long by now; nothing more is told of them.

        The time until the library is loaded does not count.
        """
        if self._loaded_s is None:
            return []
        start_s, last_s = self._loaded_s, self._clock.now_s() - self.limits.compile_timeout_s
        with self._lock:
            late = [job for job in self._open.values() if max(job.submitted_s, start_s) < last_s]
            for job in late:
                del self._open[job.key]
        why = f"it was not compiled within {self.limits.compile_timeout_s:g} s (compile_timeout_s)"
        return [Prepared(*job.key, None, f"{job.constraint.origin}: {why}") for job in late]

    def close(self) -> None:
        """Let the threads end; what is still to be compiled is not told."""
        with self._lock:
            self._open.clear()
            for jobs in self._queues if self._has_threads else ():
                jobs.put(None)
        if self._library is not None:
            self._library.close()

    def _start_threads(self) -> None:
        if self._has_threads:
            return
        self._has_threads = True
        before = threading.stack_size(_STACK_BYTES)
        try:
            for number, jobs in enumerate(self._queues):
                threading.Thread(target=self._work, args=(jobs,), name=f"grammar-{number}", daemon=True).start()
        finally:
            threading.stack_size(before)

    @property
    def _queues(self) -> "list[queue.SimpleQueue[_Job | None]]":
        """Return what each thread takes its jobs from."""
        return [self._quick_jobs, *[self._jobs] * self.limits.num_threads]

    def _work(self, jobs: "queue.SimpleQueue[_Job | None]") -> None:
        while (job := jobs.get()) is not None:
            if not self._is_open(job):
                continue
            prepared = self._prepare(job)
            with self._lock:
                is_wanted = self._is_open(job)
                if is_wanted:
                    del self._open[job.key]
            if is_wanted:
                job.on_done(prepared)

    def _is_open(self, job: "_Job") -> bool:
        return self._open.get(job.key) is job

    def _prepare(self, job: "_Job") -> Prepared:
        try:
            guide = self._guide(job.request, job.constraint)
        except GrammarRefused as error:
            return Prepared(*job.key, None, str(error))
        except BaseException:  # a panic of the library is no Exception, and must not end the thread
            logger.exception("a grammar could not be compiled")
            return Prepared(*job.key, None, f"{job.constraint.origin}: it cannot be compiled")
        return Prepared(*job.key, guide, guide.failure)

    def _guide(self, request: SequenceRequest, constraint: Constraint) -> TurnGuide:
        grammars = {
            index: self._grammar(shape.body) for index, shape in enumerate(constraint.shapes) if shape.body is not None
        }
        guide = TurnGuide(constraint, grammars, self._vocab_size)
        for token_id in request.prompt_ids[len(request.prompt_ids) - request.num_released :]:
            guide.advance(token_id)
        return guide

    def _grammar(self, spec: GrammarSpec) -> GrammarMatcher:
        """Return a matcher of `spec` for one sequence alone."""
        cached = self._cache.get(spec)
        if cached is None:
            with self._library_lock:
                if self._library is None:
                    self._library = self._load(self.limits)
                    self._loaded_s = self._clock.now_s()
            cached = self._library.compile(spec)
            self._cache.put(spec, cached)
        return cached.copy()


class GrammarCache:
    """Compiled grammars by what they were compiled from; those not asked for longest leave first. Thread-safe."""

    def __init__(self, max_grammars: int) -> None:
        """Keep at most so many."""
        self._max_grammars = max_grammars
        self._lock = threading.Lock()
        self._matchers: OrderedDict[GrammarSpec, GrammarMatcher] = OrderedDict()

    def get(self, spec: GrammarSpec) -> GrammarMatcher | None:
        """Return what was kept for `spec`, to be copied and not to be advanced."""
        with self._lock:
            if spec in self._matchers:
                self._matchers.move_to_end(spec)
            return self._matchers.get(spec)

    def put(self, spec: GrammarSpec, matcher: GrammarMatcher) -> None:
        """Keep a matcher, and let go of what is too many."""
        with self._lock:
            self._matchers[spec] = matcher
            self._matchers.move_to_end(spec)
            while len(self._matchers) > self._max_grammars:
                self._matchers.popitem(last=False)

    def __len__(self) -> int:
        return len(self._matchers)


def _has_clients_grammar(constraint: Constraint) -> bool:
    return any(shape.body is not None and shape.body.kind is not GrammarKind.JSON_OBJECT for shape in constraint.shapes)
