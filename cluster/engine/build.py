"""From a model in memory and a config section to an engine: how many KV blocks there are, and the wiring."""

import logging
from typing import TYPE_CHECKING

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.engine import Engine
from cluster.engine.engine_thread import EngineThread, OnStep
from cluster.engine.free_memory import free_bytes
from cluster.engine.limits import EngineLimits
from cluster.engine.model_runner import ModelRunner
from cluster.engine.scheduler import StepLimits
from cluster.engine.speculate import SpeculationLimits
from cluster.grammar.compiler import GrammarCompiler
from cluster.grammar.limits import GrammarLimits
from cluster.grammar.matcher import GrammarLibrary
from model.config import ModelConfig
from model.kv_cache import KVCache, KVCacheShape
from model.moe import Experts, MovingExperts
from model.transformer import Transformer

if TYPE_CHECKING:
    from cluster.config import EngineSection

logger = logging.getLogger(__name__)


def build_engine(
    transformer: Transformer,
    experts: Experts | MovingExperts,
    section: "EngineSection",
    max_context_tokens: int | None = None,
    on_step: OnStep | None = None,
) -> EngineThread:
    """Return an engine for `transformer`, its KV cache allocated, not started yet.

    `max_context_tokens` is prompt plus output of one sequence, by default the model's maximum; `limits` of the result
    says what the KV cache leaves of it. Raises ValueError for limits that cannot work, naming the field.
    """
    config, dtype = transformer.config, transformer.numerics.kv
    context = _context_tokens(config, max_context_tokens)
    kv_bytes = section.kv_cache_bytes or int(free_bytes(transformer.device) * section.kv_cache_fraction)
    bytes_per_block = BlockCount(*KVCache.bytes_per_block(config, section.block_tokens, dtype))
    geometry = BlockGeometry(section.block_tokens, config.sliding_window)
    step = StepLimits(section.max_step_tokens, section.max_running_sequences)
    num_blocks = count_blocks(kv_bytes, bytes_per_block, geometry, step, context)
    limits = EngineLimits(
        step=step,
        max_waiting_sequences=section.max_waiting_sequences,
        max_context_tokens=min(context, (num_blocks.full - 1) * section.block_tokens),
        vocab_size=config.vocab_size,
        eos_ids=config.eos_token_ids,
        geometry=geometry,
        num_blocks=num_blocks,
        has_logit_digests=section.logit_digests,
        keeps_prefixes=section.prefix_cache,
        speculation=SpeculationLimits(**section.speculation.model_dump()),
    )
    level = logging.INFO if max_context_tokens is None else logging.WARNING
    if limits.max_context_tokens < context:
        logger.log(level, "the KV cache leaves a sequence %d tokens, not %d", limits.max_context_tokens, context)
    shape = KVCacheShape(num_blocks.full, num_blocks.sliding, section.block_tokens)
    kv_cache = KVCache(config, shape, dtype, transformer.device)
    compiler = GrammarCompiler(grammar_limits(section), config.vocab_size, _load_grammars)
    return EngineThread(Engine(limits), ModelRunner(transformer, kv_cache, experts), on_step, compiler=compiler)


def grammar_limits(section: "EngineSection") -> GrammarLimits:
    """Return the limits of an engine's grammars."""
    return GrammarLimits(**{name: getattr(section.grammars, name) for name in GrammarLimits.__dataclass_fields__})


def _load_grammars(limits: GrammarLimits) -> GrammarLibrary:
    from cluster.grammar.llguidance_library import LlGuidance  # only where a grammar is asked for

    return LlGuidance(limits)


def count_blocks(
    kv_bytes: int, bytes_per_block: BlockCount, geometry: BlockGeometry, step: StepLimits, context_tokens: int
) -> BlockCount:
    """Return how many blocks of each group `kv_bytes` hold, block 0 included; raises ValueError if it is too little.

    Sliding layers need a bounded number for each running sequence and for the rows of a step; they get that, but at
    most half of the bytes. Full layers get the rest, up to what all running sequences can fill.
    """
    num_running = step.max_running_sequences
    most = BlockCount(
        1 + num_running * geometry.num_blocks(context_tokens),
        1 + num_running * (geometry.max_sliding + 1) + geometry.num_blocks(step.max_step_tokens),
    )
    least = BlockCount(2, 1 + geometry.max_sliding)
    sliding = max(least.sliding, _at_most(kv_bytes // 2, bytes_per_block.sliding, most.sliding))
    full = _at_most(kv_bytes - sliding * bytes_per_block.sliding, bytes_per_block.full, most.full)
    if full < least.full:
        least_bytes = least.full * bytes_per_block.full + least.sliding * bytes_per_block.sliding
        raise ValueError(f"kv_cache_bytes is {kv_bytes}; the smallest cache of this model takes {least_bytes} bytes")
    return BlockCount(full, sliding)


def _at_most(num_bytes: int, bytes_per_block: int, most: int) -> int:
    """Return how many blocks fit, `most` at most; a group without layers takes no bytes."""
    return min(most, num_bytes // bytes_per_block) if bytes_per_block else most


def _context_tokens(config: ModelConfig, wanted: int | None) -> int:
    if wanted is not None and wanted > config.max_positions:
        raise ValueError(f"max_context_tokens is {wanted}; the model's maximum is {config.max_positions}")
    return wanted or config.max_positions
