"""ModelRunner: carries a step out. Builds the batch, runs the model, samples."""

from contextlib import nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cluster.engine.step import StepPlan, StepResult
from model.batch import ForwardBatch, IntArray
from model.digest import logit_digests
from model.kv_cache import KVCache
from model.moe import Experts, MovingExperts
from model.sampler import sample


class LogitSource(Protocol):
    """What the engine needs of a model; `model.transformer.Transformer` is one."""

    def forward(self, batch: ForwardBatch, kv_cache: KVCache, experts: Experts) -> Tensor:
        """Return the logits [R, V] f32 of `batch.logit_rows`; store the batch's keys and values."""
        ...


class ModelRunner:
    """One model with its cache and its experts. Not thread-safe: one step at a time."""

    def __init__(self, transformer: LogitSource, kv_cache: KVCache, experts: Experts | MovingExperts) -> None:
        """Run `transformer` over `kv_cache`, with `experts` wherever they are."""
        self._transformer = transformer
        self._kv_cache = kv_cache
        self._experts = experts

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        """Return what the step gives. Errors of the model and of the experts pass through; nothing is half done.

        A step that failed may be run again: it stores the same keys and values, and samples last.
        """
        moving = self._experts
        with moving.lend() if isinstance(moving, MovingExperts) else nullcontext(moving) as experts:
            logits = self._transformer.forward(build_batch(plan), self._kv_cache, experts)
        digests = logit_digests(logits) if plan.wants_digests else ()
        return StepResult(tuple(sample(logits, plan.sample_rows)), digests)


def build_batch(plan: StepPlan) -> ForwardBatch:
    """Return the rows of a step as arrays."""
    token_ids: list[int] = []
    for chunk in plan.chunks:
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.stop]
        token_ids += chunk.draft
    num_rows = np.array([chunk.num_rows for chunk in plan.chunks], dtype=np.int64)
    starts = np.array([chunk.start for chunk in plan.chunks], dtype=np.int64)
    num_samples = np.array([chunk.num_samples for chunk in plan.chunks], dtype=np.int64)
    ends = np.cumsum(num_rows)
    return ForwardBatch(
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=_counted_up(starts, num_rows),
        num_rows=num_rows,
        block_tables=plan.block_tables,
        logit_rows=_counted_up(ends - num_samples, num_samples),
    )


def _counted_up(firsts: IntArray, counts: IntArray) -> IntArray:
    """Return first, first + 1, … for each of `firsts`, as many as its count says, one after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(firsts - before, counts)
