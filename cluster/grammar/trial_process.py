"""The program of a trial: compiles each grammar that it is sent over a vocabulary of bytes, and says what came of it.

Run by its path, so that it needs nothing of ours. Grammars come as JSON lines, complaints go back as such, null for a
grammar that compiles. It ends with its input, and memory beyond its limit ends it.
"""

import contextlib
import json
import sys
import threading

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

MEMORY_BYTES = 4 * 1024**3
STACK_BYTES = 256 * 1024 * 1024
END_TOKEN = 256


class ByteVocabulary:
    """One token for each byte, and one for the end."""

    eos_token_id = END_TOKEN
    bos_token_id = None
    special_token_ids = (END_TOKEN,)

    def __init__(self) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"\xff<|end|>"]

    def __call__(self, text: bytes | str) -> list[int]:
        """Return the tokens of a text: its bytes."""
        return list(text.encode() if isinstance(text, str) else text)


def complaint(tokenizer: LLTokenizer, grammar: str) -> str | None:
    """Return what is wrong with a grammar of llguidance, or None."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error() or None


def serve() -> None:
    """Answer line by line until the input ends."""
    tokenizer = LLTokenizer(TokenizerWrapper(ByteVocabulary()))
    for line in sys.stdin:
        answer = complaint(tokenizer, json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def limit_memory() -> None:
    """Let the system refuse memory beyond the limit, where it can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    limit_memory()
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
