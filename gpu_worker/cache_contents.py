"""What the blocks of this worker's cache hold, in the scheduler's words: kept for the next leader. Pure."""

from collections.abc import Iterable
from itertools import chain

from shared.cached_blocks import BlockHash, CachedBlocks
from shared.ids import BlockId
from shared.messages import StepPlan
from shared.packing import unpack_u32


class CacheContents:
    """Full blocks and the hashes that plans gave them. Outlives the worker's names, as the cache itself does.

    Invariant: a block that is here has not been written to since its hash was told. A plan that writes to a full block
    has given it to a sequence first; that takes it from here.

    Args:
        block_size: Tokens of a block.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._hashes: dict[BlockId, BlockHash] = {}

    def executed(self, plan: StepPlan) -> None:
        """A plan has been applied and computed, whether or not its result is taken."""
        for admitted in plan.admitted:
            num_kept = admitted.num_computed_tokens // self._block_size
            self._forget(unpack_u32(admitted.blocks)[num_kept:])
        self._forget(chain(unpack_u32(plan.appended_blocks), unpack_u32(plan.copies)[1::2]))
        for block, block_hash in plan.cached:
            self._forget((block,))  # told last, it is evicted last
            self._hashes[block] = block_hash

    def told(self) -> CachedBlocks:
        """For whoever leads now."""
        return CachedBlocks.of(self._hashes.items())

    def _forget(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._hashes.pop(BlockId(block), None)
