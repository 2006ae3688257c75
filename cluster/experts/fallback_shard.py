"""FallbackShard: experts that no worker can be asked for, computed beside attention from its own checkpoint.

It holds what was asked for last, within a bound of bytes; the rest is read anew. Experts are pure and rows do not
depend on each other, so computing them one after the other gives the bits that a worker of the same numerics gives.
"""

from collections import OrderedDict

import torch
from torch import Tensor

from cluster.experts.expert_host import MovableShard
from cluster.experts.placement import ExpertKey
from model.checkpoint.weights import WeightSource


class FallbackShard:
    """A shard that has every expert, as far as its users can tell. Not thread-safe: the engine's thread uses it."""

    def __init__(self, shard: MovableShard, weights: WeightSource, max_bytes: int) -> None:
        """Fill `shard`, which nobody else touches, from `weights` when asked, with at most `max_bytes` of experts."""
        self._shard = shard
        self._weights = weights
        self._max_bytes = max_bytes
        self._used: OrderedDict[ExpertKey, None] = OrderedDict()  # longest unused first
        self._expert_bytes = 0  # of the largest so far

    @property
    def num_resident(self) -> int:
        """Return how many experts are held."""
        return len(self._used)

    def has(self, layer: int, expert: int) -> bool:
        """Say whether the expert can be computed: any can."""
        return 0 <= layer < self._weights.config.num_layers and 0 <= expert < self._weights.config.num_experts

    def forward(self, layer: int, rows: Tensor, row_ids: Tensor, expert_ids: Tensor) -> Tensor:
        """Return [P, H] in the expert output dtype: pair p is expert `expert_ids[p]` on rows[row_ids[p]].

        Raises CheckpointError if an expert cannot be read, MemoryError if not even one may be held.
        """
        parts: list[Tensor] = []
        places: list[Tensor] = []
        for expert in expert_ids.unique().tolist():
            self._hold(layer, expert)
            pairs = (expert_ids == expert).nonzero()[:, 0]
            parts.append(self._shard.forward(layer, rows, row_ids[pairs], expert_ids[pairs]))
            places.append(pairs)
        computed = torch.cat(parts)
        outputs = torch.empty_like(computed)
        outputs[torch.cat(places)] = computed
        return outputs

    def clear(self) -> None:
        """Forget all experts."""
        while self._used:
            self._drop_oldest()

    def _hold(self, layer: int, expert: int) -> None:
        key = layer, expert
        if key not in self._used:
            while self._used and self._shard.weight_bytes() + self._expert_bytes > self._max_bytes:
                self._drop_oldest()
            self._load(key)
        self._used.move_to_end(key)

    def _load(self, key: ExpertKey) -> None:
        before = self._shard.weight_bytes()
        self._shard.put(*key, self._weights.expert(*key))
        self._weights.release()
        self._used[key] = None
        self._expert_bytes = max(self._expert_bytes, self._shard.weight_bytes() - before)
        if self._shard.weight_bytes() > self._max_bytes:
            self.clear()
            raise MemoryError(f"an expert takes {self._expert_bytes} bytes, fallback_bytes is {self._max_bytes}")

    def _drop_oldest(self) -> None:
        key, _ = self._used.popitem(last=False)
        self._shard.drop(*key)
