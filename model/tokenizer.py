"""Tokenizer: text <-> token ids of o200k_harmony, offline. Text never becomes a special token unless asked to."""

import codecs
import re
from collections.abc import Sequence
from functools import cache

import tiktoken

from model.errors import TokenizerError
from model.vocabulary import NUM_RANKS, SPECIAL_TOKENS, SPLIT_PATTERN, VOCAB_SIZE, load_ranks

MAX_WHITESPACE_RUN = 500_000
"""Characters; half of what the splitter can bear."""
_LONG_WHITESPACE = re.compile(r"\s{64,}")


class Tokenizer:
    """Encodes and decodes. Cheap to make: the vocabulary is loaded on first use (half a second), once a process."""

    vocab_size = VOCAB_SIZE

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` as ordinary text; `<|end|>` in it is seven characters and no special token.

        Raises TokenizerError for text that cannot be split into tokens (`check_text`).
        """
        check_text(text)
        return _encoding().encode_ordinary(text)

    def encode_with_special(self, text: str) -> list[int]:
        """Return the ids of trusted text, in which special tokens stand for themselves; raises TokenizerError."""
        check_text(text)
        return _encoding().encode(text, allowed_special="all")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens spelled out, with U+FFFD for what is no UTF-8.

        Raises TokenizerError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of `ids`; raises TokenizerError for an id outside the vocabulary."""
        for token_id in ids:
            _check(token_id)
        return _encoding().decode_bytes(list(ids))

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token, which need not be whole characters; raises TokenizerError."""
        _check(token_id)
        return _encoding().decode_single_token_bytes(token_id)

    def token_text(self, token_id: int) -> str:
        """Return one token as text, with U+FFFD for bytes that are no characters by themselves."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def is_special(self, token_id: int) -> bool:
        """Return whether `token_id` is a special token, named or reserved."""
        _check(token_id)
        return token_id >= NUM_RANKS


class TextDecoder:
    """Decodes a stream of tokens, keeping the bytes of a character back until it is complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes; empty while a character is incomplete."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """Return what is left at the end, U+FFFD if a character stayed incomplete, and start afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def check_text(text: str) -> None:
    """Raise TokenizerError for a run of whitespace so long that splitting would abort the process.

    The splitter backtracks one step for each blank and gives up at a million, with a panic in place of an error; the
    one of openai-harmony does too.
    """
    if len(text) <= MAX_WHITESPACE_RUN:
        return
    longest = max((len(run[0]) for run in _LONG_WHITESPACE.finditer(text)), default=0)
    if longest > MAX_WHITESPACE_RUN:
        raise TokenizerError(f"{longest} whitespace characters in a row are too many; at most {MAX_WHITESPACE_RUN}")


@cache
def _encoding() -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "o200k_harmony",
        pat_str=SPLIT_PATTERN,
        mergeable_ranks=load_ranks(),
        special_tokens=SPECIAL_TOKENS,
        explicit_n_vocab=VOCAB_SIZE,
    )


def _check(token_id: int) -> None:
    if not 0 <= token_id < VOCAB_SIZE:
        raise TokenizerError(f"{token_id} is no token id; the vocabulary is 0 to {VOCAB_SIZE - 1}")
