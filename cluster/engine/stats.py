"""EngineStats: what an engine tells of itself."""

from dataclasses import dataclass

from cluster.engine.blocks import BlockCount


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts of one moment; the totals run from the engine's start."""

    num_running: int
    num_waiting: int
    num_blocks: BlockCount
    """KV blocks that can be handed out, in each group."""
    num_free_blocks: BlockCount
    num_tokens: int
    """Tokens sampled."""
    num_steps: int
    num_failed_steps: int
    num_preemptions: int
    longest_wait_s: float
    """How long the oldest waiting sequence has been inside."""
    num_drafted: int = 0
    """Tokens guessed ahead and computed."""
    num_accepted: int = 0
    """Of those, the ones that were right."""

    @property
    def num_used_blocks(self) -> BlockCount:
        """Return the KV blocks that sequences hold, in each group."""
        return self.num_blocks.minus(self.num_free_blocks)
