"""Compiling beside the engine: what is kept, what is refused, what takes too long."""

import threading
from typing import Any

import pytest

from cluster.engine.sequence import SequenceRequest
from cluster.grammar.compiler import GrammarCompiler, Prepared
from cluster.grammar.constraint import Constraint, GrammarKind, GrammarSpec, MessageShape
from cluster.grammar.limits import GrammarLimits
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer
from model.vocabulary import RETURN, VOCAB_SIZE
from tests.cluster.grammar.hand_library import HandLibrary, HandMatcher

WAIT_S = 20.0


class HandClock:
    """Time as the test says."""

    now = 0.0

    def now_s(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def constraint(text: str) -> Constraint:
    spec = GrammarSpec(GrammarKind.CHOICE, text, origin="form")
    return Constraint((MessageShape(((),), (RETURN,), is_last=True, body=spec),))


def request(name: str = "s", released: str = "", attempt: int = 0) -> SequenceRequest:
    ids = tuple(Tokenizer().encode(released))
    return SequenceRequest(name, (1, 2, *ids), SamplingParams(max_tokens=9, seed=1), len(ids), attempt)


class Prepares:
    """A compiler and what it told."""

    def __init__(self, library: Any = None, **limits: Any) -> None:
        self.clock = HandClock()
        self.library = library or HandLibrary()
        self.compiler = GrammarCompiler(GrammarLimits(**limits), VOCAB_SIZE, lambda _: self.library, self.clock)
        self.told: list[Prepared] = []
        self._arrived = threading.Semaphore(0)

    def on_done(self, prepared: Prepared) -> None:
        self.told.append(prepared)
        self._arrived.release()

    def prepare(self, text: str, one: SequenceRequest | None = None) -> Prepared:
        self.compiler.submit(one or request(), constraint(text), self.on_done)
        self.arrives()
        return self.told[-1]

    def arrives(self) -> str:
        assert self._arrived.acquire(timeout=WAIT_S), "nothing was told"
        return self.told[-1].sequence_id


@pytest.fixture
def prepares() -> Prepares:
    return Prepares()


def test_a_guide_has_taken_what_was_released(prepares: Prepares) -> None:
    fresh = prepares.prepare("yes indeed").guide
    resumed = prepares.prepare("yes indeed", request(released="yes")).guide

    assert fresh is not None
    assert resumed is not None
    fresh.advance(Tokenizer().encode("yes")[0])
    assert fresh.mask().tobytes() == resumed.mask().tobytes()
    assert prepares.library.compiled == ["yes indeed"]


def test_released_output_that_does_not_fit_is_refused(prepares: Prepares) -> None:
    assert prepares.prepare("yes", request(released="no")).refusal == "form: the text does not match its grammar"


def test_sequences_of_one_grammar_do_not_share_their_place(prepares: Prepares) -> None:
    first, second = prepares.prepare("a b").guide, prepares.prepare("a b").guide
    assert first is not None
    assert second is not None
    before = second.mask().tobytes()

    first.advance(Tokenizer().encode("a")[0])

    assert second.mask().tobytes() == before


@pytest.mark.parametrize(("text", "why"), [("bad", "form: it is bad"), ("panic", "form: it cannot be compiled")])
def test_a_refusal_and_a_panic_are_told_and_the_next_is_compiled(prepares: Prepares, text: str, why: str) -> None:
    for _ in range(5):
        assert prepares.prepare(text).refusal == why
    assert prepares.prepare("good").guide is not None


def test_the_cache_is_bounded_over_thousands_of_grammars() -> None:
    prepares = Prepares(max_cached_grammars=16)

    for number in range(3000):
        assert prepares.prepare(f"grammar {number}").guide is not None
        assert prepares.compiler.num_cached <= 16

    assert prepares.compiler.num_cached == 16
    prepares.prepare("grammar 2999")
    prepares.prepare("grammar 2983")
    assert prepares.library.compiled.count("grammar 2999") == 1
    assert prepares.library.compiled.count("grammar 2983") == 2


def test_one_that_takes_too_long_is_refused_and_nothing_more_is_told_of_it() -> None:
    library = _SlowLibrary()
    prepares = Prepares(library, compile_timeout_s=5.0, num_threads=1)
    prepares.compiler.submit(request("slow"), constraint("slow"), prepares.on_done)
    assert library.has_begun.wait(WAIT_S)
    assert prepares.compiler.overdue() == []

    prepares.clock.now = 5.5
    late = prepares.compiler.overdue()

    assert [(one.sequence_id, one.refusal) for one in late] == [
        ("slow", "form: it was not compiled within 5 s (compile_timeout_s)")
    ]
    assert prepares.compiler.overdue() == []
    library.may_end.set()
    assert prepares.prepare("next").sequence_id == "s"
    assert [one.sequence_id for one in prepares.told] == ["s"]


def test_one_that_waits_too_long_is_not_begun() -> None:
    library = _SlowLibrary()
    prepares = Prepares(library, compile_timeout_s=5.0, num_threads=1)
    for name in ("first", "second"):
        prepares.compiler.submit(request(name), constraint(name), prepares.on_done)
    assert library.has_begun.wait(WAIT_S)
    prepares.clock.now = 6.0
    assert len(prepares.compiler.overdue()) == 2
    library.may_end.set()

    prepares.prepare("third")

    assert library.compiled == ["first", "third"]


def test_any_object_waits_for_no_grammar_of_a_client() -> None:
    library = _SlowLibrary()
    prepares = Prepares(library, num_threads=1)
    for name in ("first", "second"):
        prepares.compiler.submit(request(name), constraint(name), prepares.on_done)
    assert library.has_begun.wait(WAIT_S)
    spec = GrammarSpec(GrammarKind.JSON_OBJECT, "", origin="tools[0]")
    of_tools = Constraint((MessageShape(((),), (RETURN,), is_last=True, body=spec),))

    prepares.compiler.submit(request("tools"), of_tools, prepares.on_done)

    assert prepares.arrives() == "tools"
    library.may_end.set()
    prepares.arrives()
    prepares.arrives()
    assert [one.sequence_id for one in prepares.told] == ["tools", "first", "second"]


class _SlowLibrary(HandLibrary):
    """Waits for the test in a client's grammar."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def compile(self, spec: GrammarSpec) -> HandMatcher:
        if spec.kind is not GrammarKind.JSON_OBJECT:
            self.has_begun.set()
            assert self.may_end.wait(WAIT_S)
        return super().compile(spec)
