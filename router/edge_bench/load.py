"""The load of the benchmark: streams that each ask for answers of known lengths, one after another."""

import json
from dataclasses import dataclass
from typing import Any

PATH = "/v1/chat/completions"
MIN_REQUESTS = 32
"""Of one stream alone so many are asked, for its percentiles to mean something."""
_SUBJECTS = ("rivers", "bread", "glass", "owls", "tides", "maps", "clocks", "moss")


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams, each with so many requests of about `num_tokens` tokens."""

    num_streams: int
    num_requests: int
    num_tokens: int

    def __post_init__(self) -> None:
        """Check."""
        assert min(self.num_streams, self.num_requests, self.num_tokens) >= 1, f"nothing is asked: {self}"

    @classmethod
    def of(cls, num_streams: int, num_requests: int, num_tokens: int) -> "Load":
        """Return a load with at least `MIN_REQUESTS` requests altogether."""
        return cls(num_streams, max(num_requests, -(-MIN_REQUESTS // num_streams)), num_tokens)

    @property
    def seeds(self) -> list[list[int]]:
        """Return the seed of each stream's requests, in order; no two are the same."""
        return [
            [stream * self.num_requests + place for place in range(self.num_requests)]
            for stream in range(self.num_streams)
        ]

    @property
    def num_in_crowd(self) -> int:
        """Return how many requests of each stream come at the same instant as all others': none of one alone."""
        return 0 if self.num_streams == 1 else 1

    def max_tokens(self, seed: int) -> int:
        """Return an answer's length: half to one and a half of `num_tokens`, so that streams do not end together."""
        spread = max(1, self.num_tokens // 2)
        return self.num_tokens + (seed * 7919 + self.num_requests) % (2 * spread + 1) - spread

    def body(self, model: str, seed: int) -> bytes:
        """Return the request with a seed, as JSON; it ends with its last token, whatever the model says."""
        subject = _SUBJECTS[seed % len(_SUBJECTS)]
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"Tell me something about {subject}, please: number {seed}."}],
            "stream": True,
            "seed": seed,
            "max_completion_tokens": self.max_tokens(seed),
            "ignore_eos": True,
        }
        return json.dumps(body, separators=(",", ":")).encode()
