"""llama.cpp through llama-cpp-python's low-level interface: sequences decoded together in one batch.

Its defaults stand (flash attention where it has it, weights repacked for the processor, the file mapped), but for a
cache of the window's size on sliding layers, which its own command line chooses too.
"""

import ctypes
import importlib
import time
from importlib import metadata
from typing import Any

import numpy as np

from cluster.bench.peers.talk import WARM_UP_STEPS, LoadOrder, serve

llama: Any = importlib.import_module("llama_cpp")
"""The library has no types; `import llama_cpp` would look like this file to a checker."""
STEP_TOKENS = 512
"""Rows of a step: as many as this engine takes by default."""
_SILENT = llama.llama_log_callback(lambda _level, _text, _data: None)
"""C keeps a pointer to it."""


class LlamaCpp:
    """A loaded model with its context."""

    def __init__(self, order: LoadOrder) -> None:
        """Load `order.path`; raises OSError if llama.cpp refuses it."""
        llama.llama_backend_init()
        llama.llama_log_set(_SILENT, ctypes.c_void_p())
        self._order = order
        self._model = llama.llama_model_load_from_file(order.path.encode(), llama.llama_model_default_params())
        if not self._model:
            raise OSError(f"llama.cpp cannot load {order.path}")
        self._context = llama.llama_init_from_model(self._model, _context_params(order))
        if not self._context:
            raise OSError(f"llama.cpp cannot make a context of {order.max_sequences} x {order.context_tokens} tokens")
        self._vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._batch = llama.llama_batch_init(STEP_TOKENS, 0, 1)
        self._random = np.random.Generator(np.random.PCG64(1))
        self.version = f"llama-cpp-python {metadata.version('llama-cpp-python')}, {_features()}"

    def decode(self, num_sequences: int) -> list[float]:
        """Return the seconds of each timed step of `num_sequences` sequences."""
        self._clear()
        length = self._order.num_prompt
        tokens = [self._prompt(sequence, length) for sequence in range(num_sequences)]
        durations_s: list[float] = []
        for step in range(WARM_UP_STEPS + self._order.num_steps):
            started_s = time.perf_counter()
            tokens = self._step([(sequence, length + step, [token]) for sequence, token in enumerate(tokens)])
            durations_s.append(time.perf_counter() - started_s)
        return durations_s[WARM_UP_STEPS:]

    def prefill(self, num_tokens: int) -> float:
        """Return the seconds from a prompt to its first token."""
        self._clear()
        started_s = time.perf_counter()
        self._prompt(0, num_tokens)
        return time.perf_counter() - started_s

    def _clear(self) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)

    def _prompt(self, sequence: int, num_tokens: int) -> int:
        """Compute a random prompt in steps; return the best next token."""
        ids = self._random.integers(0, self._vocab_size, num_tokens).tolist()
        best = [0]
        for start in range(0, num_tokens, STEP_TOKENS):
            best = self._step([(sequence, start, ids[start : start + STEP_TOKENS])])
        return best[0]

    def _step(self, parts: list[tuple[int, int, list[int]]]) -> list[int]:
        """Compute (sequence, first position, tokens) together; return the best token after each."""
        batch, row, ends = self._batch, 0, []
        for sequence, start, tokens in parts:
            for offset, token in enumerate(tokens):
                batch.token[row], batch.pos[row] = token, start + offset
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
                batch.logits[row] = offset == len(tokens) - 1
                row += 1
            ends.append(row - 1)
        batch.n_tokens = row
        status = llama.llama_decode(self._context, batch)
        if status:
            raise OSError(f"llama_decode returned {status} for {row} tokens")
        return [self._best(end) for end in ends]

    def _best(self, row: int) -> int:
        logits = llama.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())


def _context_params(order: LoadOrder) -> Any:
    params = llama.llama_context_default_params()
    params.n_seq_max = order.max_sequences
    params.n_ctx = order.max_sequences * order.context_tokens
    params.n_batch = params.n_ubatch = STEP_TOKENS
    params.n_threads = params.n_threads_batch = order.num_threads
    params.swa_full = False
    return params


def _features() -> str:
    """Return what instructions the build uses, as llama.cpp names them."""
    words = llama.llama_print_system_info().decode().replace("|", " ").split("=")
    names = [word.split()[-1] for word in words[:-1] if word.split()]
    used = [name for name, value in zip(names, words[1:], strict=True) if value.split()[0] == "1"]
    return " ".join(used)


if __name__ == "__main__":
    serve(LlamaCpp)
