"""`serve PRESET --model PATH`: a checkpoint of other dimensions than any that ships gives its own weights' tokens."""

from pathlib import Path

import httpx

from model.checkpoint import open_checkpoint
from model.checkpoint.write import write_random_checkpoint
from model.tokenizer import Tokenizer
from model.vocabulary import NUM_RANKS
from tests.e2e.served import served
from tests.support.random_model import load_all, random_config
from tests.support.steps import run_in_chunks

PROMPT = [17, 4711, 99_000, 3, 250]
NUM_TOKENS = 6


def test_a_checkpoint_of_other_dimensions_serves_with_its_own_weights(tmp_path: Path) -> None:
    config = random_config(
        num_layers=3, num_experts=5, experts_per_token=2, hidden_size=96, vocab_size=201_088, sliding_window=4
    )
    path = write_random_checkpoint(tmp_path / "made-up", config, seed=3)
    with served("tiny-standalone", "--model", str(path)) as server:
        body = {"prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(
            f"{server.url}/v1/completions", json={"model": "made-up", **body}, trust_env=False, timeout=60
        )
        assert answer.is_success, answer.text
    expected = [token_id for token_id in greedy(path) if token_id < NUM_RANKS]
    assert expected, "control tokens alone would show nothing"
    assert answer.json()["choices"][0]["text"] == Tokenizer().decode(expected)


def greedy(path: Path) -> list[int]:
    """Return the best continuation, each token from the whole text computed anew."""
    transformer, shard = load_all(open_checkpoint(path), mode="precise")
    token_ids = list(PROMPT)
    for _ in range(NUM_TOKENS):
        token_ids.append(int(run_in_chunks(transformer, shard, token_ids, [len(token_ids)])[-1].argmax()))
    return token_ids[len(PROMPT) :]
