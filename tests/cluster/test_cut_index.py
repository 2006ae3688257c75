"""An answer of the tiny model is cut after every one of its tokens: each resume gives the same rest, bit by bit.

The answer is sampled under penalties, held to a grammar, told with logprobs, and ended by a stop string of several
tokens, so that cuts fall inside words, inside the stop string, and between any two states of the grammar.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.grammar.constraint import GrammarKind, GrammarSpec
from cluster.standalone import Standalone, StandaloneSections
from model.sampling_params import SamplingParams, TokenLogprob
from model.tokenizer import Tokenizer
from router.structured.turn import text_constraint

STOP = "q-x,z"
"""Several tokens, such as `q`, `-x`, `,z`: cuts fall between them."""
GRAMMAR = GrammarSpec(GrammarKind.REGEX, r"([a-z]{2,7} ){28}q-x,z[0-9]{40}", origin="g")
ENGINE = EngineSection(kv_cache_bytes=40_000_000, logit_digests=True, max_running_sequences=16)


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told of an answer, however its tokens were grouped into events."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    digests: tuple[str, ...]
    """Of the logits of each token's step."""
    finish_reason: FinishReason | None
    stop_reason: int | str | None

    def after(self, num_tokens: int) -> "Told":
        """Return what is told from the token with this index on."""
        return replace(
            self,
            token_ids=self.token_ids[num_tokens:],
            logprobs=self.logprobs[num_tokens:],
            digests=self.digests[num_tokens:],
        )


@pytest.fixture(scope="module")
def standalone() -> Generator[Standalone]:
    sections = StandaloneSections(
        ModelSection(path="tiny", max_context_tokens=512), NumericsSection(), ENGINE, AttentionSection()
    )
    with Standalone.load(sections) as running:
        yield running
        running.engine.check_integrity()


@pytest.fixture(scope="module")
def asked() -> SequenceRequest:
    params = SamplingParams(
        max_tokens=200, seed=11, temperature=1.2, top_p=0.95, stop=(STOP,), num_logprobs=2,
        frequency_penalty=0.4, presence_penalty=0.3, repetition_penalty=1.1,
    )  # fmt: skip
    prompt_ids = tuple(Tokenizer().encode("Once upon a time there was"))
    return SequenceRequest("whole", prompt_ids, params, constraint=text_constraint(GRAMMAR))


@pytest.fixture(scope="module")
def whole(standalone: Standalone, asked: SequenceRequest) -> Told:
    return told(standalone, asked)


def told(standalone: Standalone, request: SequenceRequest) -> Told:
    """Run a request; return what is told of it, seeing that no index is missing or told twice."""
    events: list[TokenEvent] = []
    for event in standalone.generate(request, timeout_s=120.0):
        assert event.index == request.num_released + sum(len(one.token_ids) for one in events)
        events.append(event)
    return Told(
        tuple(token_id for event in events for token_id in event.token_ids),
        tuple(logprob for event in events for logprob in event.logprobs),
        tuple(digest for event in events for digest in event.digests),
        events[-1].finish_reason,
        events[-1].stop_reason,
    )


def cut(request: SequenceRequest, whole: Told, num_released: int) -> SequenceRequest:
    """Return the resume of a request whose first tokens are released."""
    released = whole.token_ids[:num_released]
    name = f"cut-{num_released}"
    return replace(
        request, sequence_id=name, prompt_ids=request.prompt_ids + released, num_released=num_released, attempt=1
    )


def resume_all(standalone: Standalone, requests: list[SequenceRequest]) -> list[Told]:
    """Run resumes, many at the same time."""
    with ThreadPoolExecutor(ENGINE.max_running_sequences) as pool:
        return list(pool.map(lambda one: told(standalone, one), requests))


def test_the_answer_is_ended_by_a_stop_string_of_several_tokens(whole: Told) -> None:
    text = Tokenizer().decode(whole.token_ids)
    assert (whole.finish_reason, whole.stop_reason) == (FinishReason.STOP, STOP)
    assert text.endswith(STOP)
    assert len(Tokenizer().decode(whole.token_ids[-2:])) < len(STOP)
    assert len(whole.token_ids) == len(whole.logprobs) == len(whole.digests) >= 30


def test_a_resume_after_every_token_gives_the_same_rest(
    standalone: Standalone, asked: SequenceRequest, whole: Told
) -> None:
    cuts = range(1, len(whole.token_ids))

    rests = resume_all(standalone, [cut(asked, whole, num_released) for num_released in cuts])

    for num_released, rest in zip(cuts, rests, strict=True):
        assert rest == whole.after(num_released), f"cut after {num_released} tokens"


def test_a_resume_that_has_all_tokens_only_ends(standalone: Standalone, asked: SequenceRequest, whole: Told) -> None:
    (end,) = resume_all(standalone, [cut(asked, whole, len(whole.token_ids))])
    assert end == whole.after(len(whole.token_ids))


def test_released_tokens_taken_for_prompt_change_the_rest(
    standalone: Standalone, asked: SequenceRequest, whole: Told
) -> None:
    """The control: without the count, the grammar, the penalties and the stop string begin anew, and it shows."""
    cuts = range(1, len(whole.token_ids), 6)

    forgetful = [replace(cut(asked, whole, num_released), num_released=0) for num_released in cuts]

    for num_released, rest in zip(cuts, resume_all(standalone, forgetful), strict=True):
        assert rest != whole.after(num_released), f"cut after {num_released} tokens"


@pytest.mark.parametrize("changes", [{"frequency_penalty": 0.0}, {"seed": 12}, {"num_logprobs": 1}], ids=str)
def test_a_resume_with_other_parameters_is_told_apart(
    standalone: Standalone, asked: SequenceRequest, whole: Told, changes: dict[str, float]
) -> None:
    """The control of the comparison: any parameter that is lost on the way shows in some rest."""
    cuts = range(4, len(whole.token_ids) // 2, 8)

    other = [replace(cut(asked, whole, at), params=replace(asked.params, **changes)) for at in cuts]

    rests = resume_all(standalone, other)
    assert any(rest != whole.after(at) for at, rest in zip(cuts, rests, strict=True))
