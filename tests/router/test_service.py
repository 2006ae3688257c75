"""The service: sequences made from requests, one path for ending, failing and leaving."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from cluster.errors import ContextOverflow, EngineStopped, QueueFull
from router.backend import Readiness
from router.errors import InvalidRequest, ModelNotFound, Overloaded, Unavailable
from router.generation import Generation
from router.harmony.conversation import Conversation, UserTurn
from router.harmony.deltas import ContentDelta
from router.requests import ChatRequest, ChatUpdate, Finish, Options, TextRequest
from router.service import InferenceService, ServedModel
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import TOKENIZER, hand_config, hand_service
from tests.router.fakes.scripts import answer, call, turn

T = TypeVar("T")
HI = Conversation((UserTurn("Hi"),))


def chat(**options: object) -> ChatRequest:
    return ChatRequest(HI, Options(**options))  # pyright: ignore[reportArgumentType]


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await asyncio.wait_for(work(), 20)

    return asyncio.run(main())


async def read(generation: Generation[ChatUpdate]) -> list[ChatUpdate]:
    async with generation:
        return [update async for update in generation]


def assert_nothing_left(service: InferenceService, backend: HandBackend) -> None:
    assert backend.num_open == 0
    assert service._admission.num_running == 0
    assert b"expertmesh_requests_running 0.0" in service.metrics.render()


def test_each_choice_is_a_sequence_of_its_own_with_the_same_seed() -> None:
    backend = HandBackend(script={0: answer("A"), 1: answer("B"), 2: answer("C")})
    service = hand_service(backend)

    async def work() -> tuple[int, list[ChatUpdate]]:
        generation = await service.chat(chat(num_choices=3))
        return generation.started.seed, await read(generation)

    seed, updates = run(work)
    texts = {
        n: "".join(d.text for u in updates if u.choice == n for d in u.deltas if isinstance(d, ContentDelta))
        for n in range(3)
    }
    assert texts == {0: "A", 1: "B", 2: "C"}
    assert [(one.params.seed, one.params.choice) for one in backend.requests] == [(seed, 0), (seed, 1), (seed, 2)]
    assert len({one.sequence_id for one in backend.requests}) == 3
    assert_nothing_left(service, backend)


def test_a_seed_is_drawn_if_none_is_given() -> None:
    service = hand_service(HandBackend(answer("A")))

    async def work() -> list[int]:
        seeds: list[int] = []
        for seed in (None, None, -5):
            async with await service.chat(chat(seed=seed)) as generation:
                seeds.append(generation.started.seed)
        return seeds

    first, second, given = run(work)
    assert first != second
    assert given == -5


def test_usage_counts_prompt_once_and_completion_of_all_choices() -> None:
    script = answer("Four.", reasoning="Two and two.")
    backend = HandBackend(script, num_cached=7)
    service = hand_service(backend)

    async def work() -> Generation[ChatUpdate]:
        generation = await service.chat(chat(num_choices=2))
        await read(generation)
        return generation

    usage = run(work).usage
    assert usage.num_prompt == len(backend.requests[0].prompt_ids)
    assert usage.num_completion == 2 * len(script)
    assert usage.num_reasoning == 2 * len(TOKENIZER.encode("Two and two."))
    assert usage.num_cached == 7


def test_stop_strings_of_a_chat_are_not_the_engines() -> None:
    """Otherwise they would cut reasoning and headers."""
    backend = HandBackend(answer("One two"))
    service = hand_service(backend)

    async def work() -> list[ChatUpdate]:
        return await read(await service.chat(chat(stop=("two",))))

    updates = run(work)
    assert backend.requests[0].params.stop == ()
    assert updates[-1].finish is Finish.STOP
    assert backend.aborted == [backend.requests[0].sequence_id]
    assert_nothing_left(service, backend)


def test_stop_strings_of_a_completion_are_the_engines_too() -> None:
    backend = HandBackend(turn("One two"))
    service = hand_service(backend)

    async def work() -> None:
        async with await service.complete(TextRequest(((1, 2),), Options(stop=("two",)))) as generation:
            assert "".join([update.text async for update in generation]) == "One "

    run(work)
    assert backend.requests[0].params.stop == ("two",)


def test_several_prompts_make_choices_in_their_order() -> None:
    backend = HandBackend(turn("x"))
    service = hand_service(backend)

    async def work() -> list[int]:
        request = TextRequest(((1,), (2, 3)), Options(num_choices=2, max_tokens=1))
        async with await service.complete(request) as generation:
            assert generation.started.num_prompt_tokens == 3
            return [update.choice async for update in generation]

    assert sorted(run(work)) == [0, 1, 2, 3]
    prompts = {one.sequence_id.rpartition("-")[2]: (one.prompt_ids, one.params.choice) for one in backend.requests}
    assert prompts == {"0": ((1,), 0), "1": ((1,), 1), "2": ((2, 3), 0), "3": ((2, 3), 1)}


def test_max_tokens_is_what_the_context_leaves() -> None:
    """The engine's 3072 tokens count, not the 4096 that the config allows at most."""
    backend = HandBackend(answer("A"))
    service = hand_service(backend)

    async def work() -> None:
        await read(await service.chat(chat()))
        await read(await service.chat(chat(max_tokens=10**9)))
        await read(await service.chat(chat(max_tokens=5)))

    run(work)
    room = 3072 - len(backend.requests[0].prompt_ids)
    assert [one.params.max_tokens for one in backend.requests] == [room, room, 5]


def test_a_prompt_that_fills_the_context_is_refused_before_anything_runs() -> None:
    backend = HandBackend(answer("A"))
    service = hand_service(backend)
    request = ChatRequest(Conversation((UserTurn("word " * 5000),)))

    with pytest.raises(ContextOverflow, match="maximum context length is 3072"):
        run(lambda: service.chat(request))
    assert backend.requests == []
    assert_nothing_left(service, backend)


def test_who_ignores_the_end_of_a_turn_gets_all_tokens_but_those_after_a_stop_of_its_own() -> None:
    ids = answer("A") + answer("B")
    backend = HandBackend(ids)
    service = hand_service(backend)

    async def work() -> list[int]:
        counts: list[int] = []
        wanted: list[dict[str, object]] = [{}, {"ignore_eos": True}, {"ignore_eos": True, "stop_token_ids": (ids[1],)}]
        for options in wanted:
            generation = await service.chat(chat(**options))
            await read(generation)
            counts.append(generation.usage.num_completion)
        return counts

    assert run(work) == [len(answer("A")), len(ids), 2]
    assert [one.params.stop_token_ids for one in backend.requests[1:]] == [(), (ids[1],)]


def test_leaving_aborts_every_choice() -> None:
    backend = HandBackend(answer("A" * 50), delay_s=0.01)
    service = hand_service(backend)

    async def work() -> None:
        generation = await service.chat(chat(num_choices=3))
        await anext(generation)
        assert backend.num_open == 3
        await generation.aclose()
        # Now, not when the collector comes.
        assert backend.num_open == 0

    run(work)
    assert sorted(backend.aborted) == sorted(one.sequence_id for one in backend.requests)
    assert_nothing_left(service, backend)
    assert b'outcome="cancelled"} 1.0' in service.metrics.render()


def test_a_generation_that_nobody_reads_gives_its_place_back() -> None:
    backend = HandBackend(answer("A"))
    service = hand_service(backend)

    async def work() -> None:
        await (await service.chat(chat())).aclose()

    run(work)
    assert_nothing_left(service, backend)


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("num_choices", [1, 3])
def test_an_error_of_the_backend_ends_all_choices(after: int, num_choices: int) -> None:
    backend = HandBackend(answer("A" * 20), error=EngineStopped("gone"), fails_after=after)
    service = hand_service(backend)

    async def work() -> None:
        await read(await service.chat(chat(num_choices=num_choices)))

    with pytest.raises(EngineStopped):
        run(work)
    assert_nothing_left(service, backend)


def test_a_full_queue_is_told_before_the_first_update() -> None:
    backend = HandBackend(answer("A"), error=QueueFull("full"))
    service = hand_service(backend)

    async def work() -> None:
        async with await service.chat(chat()) as generation:
            await generation.begin(5.0)

    with pytest.raises(Overloaded):
        run(work)
    assert_nothing_left(service, backend)


def test_begin_keeps_the_first_update_for_the_reader() -> None:
    service = hand_service(HandBackend(answer("Hello there")))

    async def work() -> tuple[list[ChatUpdate], list[ChatUpdate]]:
        generation = await service.chat(chat())
        await generation.begin(5.0)
        return await read(generation), await read(await service.chat(chat()))

    begun, plain = run(work)
    assert begun == plain


def test_places_are_limited_and_given_back() -> None:
    backend = HandBackend(answer("A"))
    service = hand_service(backend, limits={"max_running_requests": 2})

    async def work() -> None:
        held = [await service.chat(chat()) for _ in range(2)]
        with pytest.raises(Overloaded) as caught:
            await service.chat(chat())
        assert caught.value.retry_after_s is not None
        for generation in held:
            await read(generation)
        await read(await service.chat(chat()))

    run(work)
    assert_nothing_left(service, backend)


def test_an_unknown_model_is_not_found_and_names_of_the_model_are_known() -> None:
    service = hand_service(HandBackend(answer("A")))

    async def work() -> None:
        for name in (None, "", "hand", "hand-alias"):
            await read(await service.chat(replace(chat(), model=name)))
        with pytest.raises(ModelNotFound):
            await service.chat(replace(chat(), model="gpt-4"))

    run(work)


def test_a_backend_that_loads_is_unavailable_and_says_how_far_it_is() -> None:
    backend = HandBackend(answer("A"), readiness=Readiness(False, "loading experts", 0.4))
    service = hand_service(backend)

    with pytest.raises(Unavailable, match="loading experts, 40%"):
        run(lambda: service.chat(chat()))
    assert_nothing_left(service, backend)


def test_wrong_parameters_that_reach_the_engine_are_named() -> None:
    service = hand_service(HandBackend(answer("A")))

    with pytest.raises(InvalidRequest) as caught:
        run(lambda: service.chat(chat(top_p=7.0)))
    assert caught.value.param == "top_p"


def test_tokens_per_event_do_not_change_what_is_said() -> None:
    async def work(size: int) -> tuple[str, int]:
        service = hand_service(HandBackend(call("f", '{"a": "😀"}'), tokens_per_event=size))
        generation = await service.chat(chat())
        updates = await read(generation)
        texts = (getattr(delta, "text", "") for update in updates for delta in update.deltas)
        return "".join(texts), generation.usage.num_completion

    results = {run(lambda size=size: work(size)) for size in (1, 2, 3, 7, 100)}
    assert len(results) == 1


@pytest.mark.parametrize(
    ("path", "served_name", "name"),
    [
        ("tiny", None, "tiny"),
        ("openai/gpt-oss-20b", None, "openai/gpt-oss-20b"),
        ("/models/my-oss", None, "my-oss"),
        ("./my-oss", None, "my-oss"),
        ("tiny", "mine", "mine"),
    ],
)
def test_the_models_name_is_the_configs_or_its_own(path: str, served_name: str | None, name: str) -> None:
    config = hand_config()
    section = config.model.model_copy(update={"path": path, "served_name": served_name})

    assert ServedModel.of(config.model_copy(update={"model": section})).name == name
