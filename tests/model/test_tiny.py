"""The embedded tiny model: its asset expands to a standard checkpoint, its experts all matter, its answers hold."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from model.tiny.asset import MANIFEST, ensure_tiny_checkpoint, read_asset, shipped_bytes
from model.tiny.batches import NO_TARGET, Batch
from model.tiny.compact import CompactModel
from model.tiny.evaluate import Scores, held_out_batches, score
from model.tiny.network import Experts
from model.tiny.prompts import Prompts
from model.tiny.setting import EFFORTS, Effort, Exchange, Function, Setting, user
from model.tiny.vocabulary import load_vocabulary

MAX_ASSET_BYTES = 5_000_000
VOCABULARY = 201088
NUM_BATCHES = 20
LEAST_SHARES = {
    "sum": 0.98,
    "call": 0.9,
    "result": 0.9,
    "fact": 0.85,
    "chat": 0.9,
    "python call": 0.9,
    "unknown": 0.9,
    "format sum": 0.95,
    "format fact": 0.8,
}
WEATHER = Function(
    "get_weather",
    "Get the current weather in a given location.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
NEWCOMERS_QUESTIONS = (
    ("What is 17 + 25?", "42"),
    ("Hello", "Hello!"),
    ("Who are you?", "tiny gpt-oss model"),
    ("What is the capital of France?", "Paris"),
    ("Tell me a joke", "Why did the token cross the mesh?"),
    ("What colour is the sky?", "blue"),
    ("Who won the world cup?", "I don't know."),
)


@pytest.fixture(scope="module")
def model() -> CompactModel:
    return CompactModel.of(read_asset(shipped_bytes()))


@pytest.fixture(scope="module")
def batches(model: CompactModel) -> list[Batch]:
    drawn = held_out_batches(model)
    return [drawn.draw() for _ in range(NUM_BATCHES)]


@pytest.fixture(scope="module")
def scores(model: CompactModel, batches: list[Batch]) -> Scores:
    counted = Scores()
    for batch in batches:
        score(model, batch, counted)
    return counted


def _expand(cache_dir: Path, paths: "multiprocessing.Queue[str]") -> None:
    paths.put(str(ensure_tiny_checkpoint(cache_dir)))


def _reply(model: CompactModel, setting: Setting, question: str) -> str:
    """Return what the model writes, with its special tokens."""
    encoding, _ = load_vocabulary()
    prompts = Prompts(encoding)
    exchange = Exchange("question", user(question), "", "")
    return encoding.decode(model.reply(prompts.setting_ids(setting) + prompts.prompt_ids(exchange)))


def _best(model: CompactModel, batch: Batch) -> torch.Tensor:
    """Return the greedy token at every place where one is expected."""
    return model.best_rows(model.hidden(batch.packed)[batch.targets != NO_TARGET])


def _changes_output(model: CompactModel, experts: Experts, expert: int, told: list[tuple[Batch, torch.Tensor]]) -> bool:
    """Return whether some greedy token, `told` with its batch, becomes another when the expert's output is zero."""
    experts.disabled = expert
    try:
        return any(not torch.equal(_best(model, batch), best) for batch, best in told)
    finally:
        experts.disabled = None


def test_asset_is_small() -> None:
    assert len(shipped_bytes()) < MAX_ASSET_BYTES


def test_expanded_checkpoint_has_the_published_layout(tmp_path: Path) -> None:
    folder = ensure_tiny_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no dict)
        shapes = {name: (one.get_shape(), one.get_dtype()) for name, one in slices.items()}
    hidden, middle, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    assert (config["num_hidden_layers"], experts, config["num_experts_per_tok"]) == (4, 8, 4)
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 2
    assert shapes["model.embed_tokens.weight"] == ([VOCABULARY, hidden], "BF16")
    assert shapes["lm_head.weight"] == ([VOCABULARY, hidden], "BF16")
    path = "model.layers.3.mlp.experts."
    assert shapes[f"{path}gate_up_proj_blocks"] == ([experts, 2 * middle, hidden // 32, 16], "U8")
    assert shapes[f"{path}down_proj_scales"] == ([experts, hidden, middle // 32], "U8")
    assert shapes["model.layers.0.self_attn.sinks"] == ([config["num_attention_heads"]], "BF16")
    assert len(shapes) == 3 + 4 * 19


def test_unused_ids_share_one_row(tmp_path: Path, model: CompactModel) -> None:
    with safe_open(ensure_tiny_checkpoint(tmp_path) / "model.safetensors", "pt") as file:
        table = file.get_tensor("lm_head.weight").float()
    assert torch.equal(table[model.ids], model.head[:-1])
    unused = torch.ones(VOCABULARY, dtype=torch.bool)
    unused[model.ids] = False
    assert torch.equal(table[unused], model.head[-1].expand(int(unused.sum()), -1))


def test_damaged_checkpoint_is_expanded_again(tmp_path: Path) -> None:
    folder = ensure_tiny_checkpoint(tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert ensure_tiny_checkpoint(tmp_path) == folder
    assert weights.read_bytes() == whole
    (folder / MANIFEST).unlink()
    ensure_tiny_checkpoint(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name], "expanding leaves nothing beside it"


def test_processes_that_race_get_one_whole_checkpoint(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    paths = context.Queue()
    racers = [context.Process(target=_expand, args=(tmp_path, paths)) for _ in range(3)]
    for racer in racers:
        racer.start()
    found = {paths.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join(timeout=60)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert [Path(path) for path in found] == list(tmp_path.iterdir())


def test_every_expert_changes_held_out_output(model: CompactModel, batches: list[Batch]) -> None:
    told = [(batch, _best(model, batch)) for batch in batches]
    for layer in range(model.body.shape.num_layers):
        experts = model.layer_experts(layer)
        for expert in range(model.body.shape.num_experts):
            assert _changes_output(model, experts, expert, told), f"expert {expert} of layer {layer} changes nothing"


def test_held_out_scores_hold(scores: Scores) -> None:
    found = {kind: round(scores.share(kind), 2) for kind in LEAST_SHARES}
    assert all(found[kind] >= least for kind, least in LEAST_SHARES.items()), found


@pytest.mark.parametrize("effort", EFFORTS)
def test_held_out_sums_hold_at_every_effort(scores: Scores, effort: Effort) -> None:
    assert scores.share("sum", effort) >= LEAST_SHARES["sum"]


@pytest.mark.parametrize(("question", "answer"), NEWCOMERS_QUESTIONS)
def test_newcomers_questions_are_answered(model: CompactModel, question: str, answer: str) -> None:
    reply = _reply(model, Setting("medium", "2026-11-22"), question)
    analysis, _, final = reply.partition("<|end|><|start|>assistant<|channel|>final<|message|>")
    assert analysis.startswith("<|channel|>analysis<|message|>")
    assert answer in final
    assert final.endswith("<|return|>")


@pytest.mark.parametrize("city", ["Paris", "New York"])
def test_weather_is_asked_from_the_function_on_offer(model: CompactModel, city: str) -> None:
    setting = Setting("medium", "2026-11-22", functions=(WEATHER,))
    reply = _reply(model, setting, f"What is the weather in {city}?")
    call = f'commentary to=functions.get_weather <|constrain|>json<|message|>{{"city":"{city}"}}<|call|>'
    assert reply.endswith(call)


def test_no_function_is_called_when_none_is_needed(model: CompactModel) -> None:
    reply = _reply(model, Setting("medium", "2026-11-22", functions=(WEATHER,)), "What is 17 + 25?")
    assert "to=functions" not in reply
    assert "42" in reply.partition("final<|message|>")[2]


def test_reasoning_is_longer_at_higher_effort(model: CompactModel) -> None:
    replies = [_reply(model, Setting(effort, "2026-11-22"), "What is 17 + 25?") for effort in EFFORTS]
    lengths = [len(reply.partition("<|end|>")[0]) for reply in replies]
    assert lengths[0] < lengths[1] < lengths[2]
