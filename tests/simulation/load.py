"""What simulated clients ask, what each must be told, and what engines may guess of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cluster.engine.sequence import FinishReason, SequenceRequest
from cluster.engine.speculate import Drafter, PromptLookup, SpeculationLimits
from cluster.grammar.compiler import Prepared
from cluster.grammar.constraint import Constraint, MessageShape
from cluster.grammar.guide import TurnGuide
from tests.cluster.engine.driver import EOS, request
from tests.cluster.engine.hand_transformer import VOCAB_SIZE
from tests.cluster.engine.oracle import ALWAYS, Oracle
from tests.simulation.paper_model import tokens_on_paper
from tests.simulation.world import World

MAX_CONTEXT = 48
HELD = Constraint((MessageShape(((5, 6, 7),), (EOS,), is_last=True),))
"""Three tokens to begin with; the rest is free until the turn's end."""
REFUSED = Constraint((MessageShape(((9,),), (EOS,), is_last=True),))
"""It cannot be compiled, as far as anybody here knows."""
STOPS = ('"', "#$", "a", "zz")
"""Token ids below 94 are the printable characters of ASCII in this vocabulary."""

NewDrafter = Callable[[], Drafter | None]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a request gives when it is left alone."""

    token_ids: list[int]
    finish_reason: FinishReason


def random_request(world: World, name: str) -> SequenceRequest:
    """Return a request of random length and sampling, of one of three tenants; now and then held by a constraint."""
    chance = world.chance
    one = request(
        name,
        [chance.randrange(96) for _ in range(chance.randint(1, 20))],
        seed=chance.randrange(1000),
        max_tokens=chance.randint(3, 25),
        temperature=chance.choice([0.0, 1.0, 5.0]),
        ignore_eos=chance.random() < 0.5,
        frequency_penalty=chance.choice([0.0, 0.0, 1.0]),
        min_tokens=chance.choice([0, 0, 0, 3]),
        stop=tuple(chance.sample(STOPS, chance.randint(1, 2))) if chance.random() < 0.2 else (),
        priority=chance.choice([0, 0, 1]),
    )
    constraint = chance.choices([None, HELD, REFUSED], [16, 3, 1])[0]
    tenant = chance.choice(["", "one", "two"])
    return replace(one, tenant=tenant, weight=chance.choice([1.0, 2.0]), cache_salt=tenant, constraint=constraint)


def expected(one: SequenceRequest) -> Expected:
    """Return what a request must give, token for token."""
    if one.constraint is REFUSED:
        return Expected([], FinishReason.REFUSED)
    guide = None if one.constraint is None else TurnGuide(one.constraint, {}, VOCAB_SIZE)
    return Expected(*tokens_on_paper(one, MAX_CONTEXT, guide))


def prepared(one: SequenceRequest) -> Prepared:
    """Return what comes of a request's constraint: a guide that has taken what was released, or a refusal."""
    assert one.constraint is not None, f"{one.sequence_id} has no constraint"
    if one.constraint is REFUSED:
        return Prepared(one.sequence_id, one.attempt, None, "structured_outputs: it cannot be compiled")
    guide = TurnGuide(one.constraint, {}, VOCAB_SIZE)
    for token_id in one.prompt_ids[len(one.prompt_ids) - one.num_released :]:
        guide.advance(token_id)
    return Prepared(one.sequence_id, one.attempt, guide)


def random_drafters(world: World, requests: Iterable[SequenceRequest]) -> tuple[SpeculationLimits, NewDrafter]:
    """Return how engines guess: not at all, from the text itself, or like one that knows, and lies now and then."""
    texts = [[*one.prompt_ids, *expected(one).token_ids] for one in requests]
    kinds: list[tuple[SpeculationLimits, NewDrafter]] = [
        (SpeculationLimits(), lambda: None),
        (ALWAYS, lambda: PromptLookup(ngram_tokens=1)),
        (ALWAYS, lambda: Oracle(texts, world.chance)),
    ]
    return world.chance.choice(kinds)
