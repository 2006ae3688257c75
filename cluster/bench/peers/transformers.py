"""transformers: the model's own class with its cache, sequences of equal length in one batch."""

import time

import torch
import transformers

from cluster.bench.peers.talk import WARM_UP_STEPS, LoadOrder, serve


class Transformers:
    """A loaded model."""

    def __init__(self, order: LoadOrder) -> None:
        """Load the directory `order.path` in the dtype that the option `dtype` names."""
        torch.set_num_threads(order.num_threads)
        self._order = order
        dtype = order.options.get("dtype", "float32")
        self._model = transformers.AutoModelForCausalLM.from_pretrained(order.path, dtype=getattr(torch, dtype)).eval()
        self._random = torch.Generator().manual_seed(1)
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}, {dtype}"

    @torch.inference_mode()
    def decode(self, num_sequences: int) -> list[float]:
        """Return the seconds of each timed step of `num_sequences` sequences."""
        tokens, cache = self._step(self._prompts(num_sequences, self._order.num_prompt), None)
        durations_s: list[float] = []
        for _ in range(WARM_UP_STEPS + self._order.num_steps):
            started_s = time.perf_counter()
            tokens, cache = self._step(tokens, cache)
            durations_s.append(time.perf_counter() - started_s)
        return durations_s[WARM_UP_STEPS:]

    @torch.inference_mode()
    def prefill(self, num_tokens: int) -> float:
        """Return the seconds from a prompt to its first token."""
        prompt = self._prompts(1, num_tokens)
        started_s = time.perf_counter()
        self._step(prompt, None)
        return time.perf_counter() - started_s

    def _prompts(self, num_sequences: int, num_tokens: int) -> torch.Tensor:
        size = num_sequences, num_tokens
        return torch.randint(0, self._model.config.vocab_size, size, generator=self._random)

    def _step(self, token_ids: torch.Tensor, cache: object) -> tuple[torch.Tensor, object]:
        """Compute token_ids [S, T] after what is cached; return the best next tokens [S, 1] and the cache."""
        output = self._model(token_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(dim=-1, keepdim=True), output.past_key_values


if __name__ == "__main__":
    serve(Transformers)
