"""The guide on paper: which tokens may come where, through headers, texts, ends, guesses and malformed output."""

import random

import pytest

from cluster.grammar.constraint import Constraint, GrammarKind, GrammarSpec, MessageShape
from cluster.grammar.guide import TurnGuide
from model.token_mask import Words, allowed_ids, mask_of
from model.tokenizer import Tokenizer
from model.vocabulary import CALL, CHANNEL, END, MESSAGE, NUM_RANKS, RETURN, START, VOCAB_SIZE
from tests.cluster.grammar.hand_library import HandMatcher

TOKENIZER = Tokenizer()
YES = GrammarSpec(GrammarKind.CHOICE, "yes indeed", origin="form")


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode_with_special(text))


ANALYSIS = MessageShape((ids("<|channel|>analysis<|message|>"),), (END,), is_last=False)
ANSWER = MessageShape(
    (ids("<|channel|>final<|message|>"), ids("<|channel|>final <|constrain|>json<|message|>")),
    (RETURN,),
    is_last=True,
    body=YES,
)
CALL_F = MessageShape((ids("<|channel|>commentary to=functions.f<|message|>"),), (CALL,), is_last=True)
TURN = Constraint((ANALYSIS, ANSWER, CALL_F), ids("<|start|>assistant"))


def guide_after(text: str, constraint: Constraint = TURN) -> TurnGuide:
    matchers = {
        index: HandMatcher(TOKENIZER.encode(shape.body.text))
        for index, shape in enumerate(constraint.shapes)
        if shape.body is not None
    }
    guide = TurnGuide(constraint, matchers, VOCAB_SIZE)
    for token_id in ids(text):
        guide.advance(token_id)
    return guide


def allowed(text: str, constraint: Constraint = TURN) -> list[int]:
    return allowed_ids(guide_after(text, constraint).mask()).tolist()


@pytest.mark.parametrize(
    ("written", "next_text"),
    [
        ("", "<|channel|>"),
        ("<|channel|>final", "<|message|>"),
        ("<|channel|>analysis<|message|>Hm.<|end|>", "<|start|>"),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>", "assistant"),
        ("<|channel|>final<|message|>", "yes"),
        ("<|channel|>final <|constrain|>json<|message|>yes", " indeed"),
        ("<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>yes indeed", "<|return|>"),
    ],
)
def test_what_must_come_is_all_that_may_come(written: str, next_text: str) -> None:
    assert next_text in {TOKENIZER.decode([token_id]) for token_id in allowed(written)}
    others = {"<|channel|>final": {" "}}
    assert {TOKENIZER.decode([token_id]) for token_id in allowed(written)} - others.get(written, set()) == {next_text}


def test_a_header_is_one_of_those_that_may_come() -> None:
    channels = {TOKENIZER.decode([token_id]) for token_id in allowed("<|channel|>")}

    assert channels == {"analysis", "final", "comment"}


@pytest.mark.parametrize(
    ("written", "end"),
    [("<|channel|>analysis<|message|>yes ind", END), ("<|channel|>commentary to=functions.f<|message|>{", CALL)],
)
def test_free_text_is_never_masked_and_ends_in_its_own_way_only(written: str, end: int) -> None:
    assert allowed(written) == [*range(NUM_RANKS), end]


def test_a_message_that_may_come_once_comes_once() -> None:
    once = MessageShape(ANALYSIS.headers, ANALYSIS.ends, is_last=False, is_once=True)
    constraint = Constraint((once, ANSWER, CALL_F), TURN.opening)
    reasoned = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>"

    names = {TOKENIZER.decode([first]) for first in allowed("<|channel|>", constraint)}
    assert "analysis" in names
    assert {TOKENIZER.decode([first]) for first in allowed(reasoned, constraint)} == names - {"analysis"}
    assert {TOKENIZER.decode([first]) for first in allowed(reasoned)} == names
    guide = guide_after(reasoned, constraint)
    guide.roll_back(len(ids(reasoned)) - 1)
    assert {TOKENIZER.decode([first]) for first in allowed_ids(guide.mask()).tolist()} == names


def test_given_tokens_come_first_and_then_nothing_is_held() -> None:
    given = Constraint((MessageShape((ids("One<|end|> two"),), (), is_last=True, is_open=True),))

    guide = guide_after("", given)
    for token_id in ids("One<|end|> two"):
        assert allowed_ids(guide.mask()).tolist() == [token_id]
        guide.advance(token_id)
    for token_id in ids("<|start|> three<|return|>"):
        assert len(allowed_ids(guide.mask())) == VOCAB_SIZE
        guide.advance(token_id)
    assert (guide.failure, guide.is_over) == (None, False)


def test_an_output_that_is_all_text_begins_at_once() -> None:
    constraint = Constraint((MessageShape(((),), (RETURN,), is_last=True, body=YES),))

    assert allowed("", constraint) == [*ids("yes")]
    assert allowed("yes indeed", constraint) == [RETURN]


def test_beyond_the_end_nothing_is_asked() -> None:
    assert len(allowed("<|channel|>final<|message|>yes indeed<|return|>")) >= VOCAB_SIZE
    assert guide_after("<|channel|>final<|message|>yes indeed<|return|>").is_over
    assert not guide_after("<|channel|>final<|message|>yes indeed").is_over
    assert not guide_after("<|channel|>analysis<|message|><|end|>").is_over


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("Hello", "header"),
        ("<|start|>", "header"),
        ("<|channel|>final<|message|>no", "does not match"),
        ("<|channel|>final<|message|>yes<|return|>", "ended before"),
        ("<|channel|>final<|message|><|end|>", "control token"),
        ("<|channel|>analysis<|message|>a<|channel|>", "control token"),
        ("<|channel|>analysis<|message|>a<|return|>", "control token"),
        ("<|channel|>analysis<|message|>a<|end|><|channel|>", "header"),
        ("<|channel|><|channel|>", "header"),
        ("<|reserved_200500|>", "header"),
    ],
)
def test_malformed_output_is_a_failure_that_names_the_field(output: str, why: str) -> None:
    guide = guide_after(output)

    assert guide.failure is not None
    assert guide.failure.startswith("form: ")
    assert why in guide.failure
    guide.mask()  # and no exception


def test_rolling_back_leads_to_where_it_was() -> None:
    """Through a whole turn and back, one token at a time and in leaps."""
    text = "<|channel|>analysis<|message|>Hm hm<|end|><|start|>assistant<|channel|>final<|message|>yes indeed<|return|>"
    turn = ids(text)
    guide = guide_after("")
    masks = [guide.mask().tobytes()]
    for token_id in turn:
        guide.advance(token_id)
        masks.append(guide.mask().tobytes())
    at, chance = len(turn), random.Random(1)
    for _ in range(60):
        target = chance.randrange(len(turn) + 1)
        if target < at:
            guide.roll_back(at - target)
        for token_id in turn[at:target]:
            guide.advance(token_id)
        at = target
        assert guide.mask().tobytes() == masks[at]
        assert guide.failure is None


@pytest.mark.parametrize("num_written", range(17))
def test_a_guess_is_masked_as_if_it_were_written_and_leaves_no_trace(num_written: int) -> None:
    text = "<|channel|>analysis<|message|>Hm hm<|end|><|start|>assistant<|channel|>final<|message|>yes indeed<|return|>"
    turn = ids(text)
    guide = guide_after("")
    for token_id in turn[:num_written]:
        guide.advance(token_id)
    before = guide.mask().tobytes()

    for length in range(len(turn) - num_written):
        ahead = turn[num_written : num_written + length]
        written = guide_after("")
        for token_id in turn[: num_written + length]:
            written.advance(token_id)
        assert guide.mask(ahead).tobytes() == written.mask().tobytes()
        assert guide.mask().tobytes() == before

    guide.mask((START, 5, MESSAGE, CHANNEL, CALL, END))
    assert guide.mask().tobytes() == before
    assert guide.failure is None


def test_random_garbage_never_raises() -> None:
    chance = random.Random(7)
    control = [START, CHANNEL, MESSAGE, END, RETURN, CALL, 200_500, *ids("analysisfinal yes indeed")]
    for _ in range(300):
        guide = guide_after("")
        for _ in range(chance.randrange(30)):
            guide.advance(chance.choice(control) if chance.random() < 0.9 else chance.randrange(VOCAB_SIZE))
            if chance.random() < 0.3:
                guide.mask([chance.choice(control) for _ in range(3)])


def test_a_grammar_that_allows_nothing_is_a_failure() -> None:
    constraint = Constraint((MessageShape(((),), (RETURN,), is_last=True, body=YES),))
    guide = TurnGuide(constraint, {0: _Dead(TOKENIZER.encode("x"))}, VOCAB_SIZE)

    assert not guide.mask().any()
    assert guide.failure == "form: the grammar allows no token here"


class _Dead(HandMatcher):
    """Stuck from the start."""

    def copy(self) -> "_Dead":
        return self

    def words(self) -> Words:
        return mask_of((), VOCAB_SIZE)


@pytest.mark.parametrize(
    ("written", "guess", "num_allowed"),
    [
        ("", "<|channel|>final<|message|>yes indeed<|return|>", 6),
        ("", "<|channel|>final<|message|>no", 3),
        ("<|channel|>final<|message|>yes", " indeed<|return|><|start|>assistant", 2),
        ("<|channel|>final<|message|>yes", "<|return|>", 0),
        ("<|channel|>analysis<|message|>Hm", " hm hm<|return|>", 2),
        ("<|channel|>final<|message|>yes indeed<|return|>", "<|start|>", 0),
    ],
)
def test_a_guess_is_allowed_as_far_as_it_could_be_written(written: str, guess: str, num_allowed: int) -> None:
    guide = guide_after(written)
    before = guide.mask().tobytes()

    allowed_tokens = guide.num_allowed(ids(guess))

    assert TOKENIZER.decode(list(ids(guess)[:allowed_tokens])) == TOKENIZER.decode(list(ids(guess)[:num_allowed]))
    assert guide.mask().tobytes() == before
    assert guide.failure is None


@pytest.mark.parametrize("num_written", range(4))
def test_a_guess_that_breaks_its_grammars_limits_breaks_nothing_that_is_written(num_written: int) -> None:
    """The grammar can take three tokens: a fourth leaves it broken, rolled back or not."""
    constraint = Constraint((MessageShape(((),), (RETURN,), is_last=True, body=YES),))
    turn = ids("yes indeed yes indeed")
    guide = TurnGuide(constraint, {0: _Frail(list(turn))}, VOCAB_SIZE)
    for token_id in turn[:num_written]:
        guide.advance(token_id)
    before = guide.mask().tobytes()

    assert guide.num_allowed(turn[num_written:]) == 3 - num_written
    guide.mask(turn[num_written:])

    assert guide.mask().tobytes() == before
    assert guide.failure is None
    for token_id in turn[num_written:3]:
        guide.advance(token_id)
    assert guide.failure is None
    guide.advance(turn[3])
    assert guide.failure == "form: it is too much"
    guide.mask()
    assert guide.failure == "form: it is too much"


class _Frail(HandMatcher):
    """Passes a limit with its fourth token."""

    def copy(self) -> "_Frail":
        return _Frail(self.wanted, self.num_seen)

    def advance(self, token_id: int) -> bool:
        if self.num_seen == 3:
            self.failure = "it is too much"
        return self.failure is None and super().advance(token_id)
