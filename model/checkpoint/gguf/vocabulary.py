"""The o200k_harmony vocabulary as GGUF metadata, for llama.cpp's sake: ours is the one in the package.

Tokens are spelled as GPT-2 spells bytes, and special tokens as themselves. llama.cpp merges by a list of pairs where
tiktoken merges whatever gives the token of lowest rank: so every way to cut a token into two is listed, by rank.
"""

from collections.abc import Iterator

from model.checkpoint.gguf.writer import WritableValue
from model.vocabulary import END_OF_TEXT, SPECIAL_TOKENS, START_OF_TEXT, VOCAB_SIZE, load_ranks

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""llama.cpp's token types."""
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_SPELLING = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + n) for n, byte in enumerate(_OTHERS)}
"""A printable character for each byte, as GPT-2's vocabulary has them: 0x20 is U+0120."""


def vocabulary_metadata(vocab_size: int) -> dict[str, WritableValue]:
    """Return the tokenizer's keys for a model of `vocab_size` tokens, those of ours that fit and padding beyond."""
    ranks = {_spelled(token): rank for token, rank in load_ranks().items() if rank < vocab_size}
    special = {text: number for text, number in SPECIAL_TOKENS.items() if number < vocab_size}
    padding = [f"[PAD{number}]" for number in range(VOCAB_SIZE, vocab_size)]
    types = [NORMAL] * len(ranks) + [CONTROL] * len(special) + [UNUSED] * len(padding)
    metadata: dict[str, WritableValue] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-4o",
        "tokenizer.ggml.tokens": [*ranks, *special, *padding],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_bos_token": False,
    }
    if merges := list(_merges(ranks)):
        metadata["tokenizer.ggml.merges"] = merges
    if vocab_size > END_OF_TEXT:
        metadata["tokenizer.ggml.bos_token_id"] = START_OF_TEXT
    return metadata


def _spelled(token: bytes) -> str:
    return token.decode("latin-1").translate(_SPELLING)


def _merges(ranks: dict[str, int]) -> Iterator[str]:
    """Yield every pair of tokens that makes a token, in the order of that token's rank, then of the pair's."""
    for token in ranks:
        cuts = ((token[:place], token[place:]) for place in range(1, len(token)))
        pairs = [(ranks[left], ranks[right], left, right) for left, right in cuts if left in ranks and right in ranks]
        for _, _, left, right in sorted(pairs):
            yield f"{left} {right}"
