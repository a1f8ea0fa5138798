"""All blocks of one worker's KV cache: who counts on each, and which may be handed out next."""

from collections import OrderedDict
from collections.abc import Iterable

from shared.ids import BlockId


class BlockPool:
    """Ref counts and the free list of `num_blocks` blocks.

    The free list is in eviction order: blocks whose content nobody could ask for come first, then cached ones, the
    longest unused first. A free block keeps its content until it is allocated again, so that a prefix hit can take it
    back from the middle of the list in O(1).

    Invariants, checked by `check`:
        - a block is free if and only if its ref count is 0;
        - free and held blocks together are all blocks.

    Args:
        num_blocks: All are free.
        cached: Those of them that hold something already, the first to be evicted comes first.
    """

    def __init__(self, num_blocks: int, cached: Iterable[BlockId] = ()) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._free: OrderedDict[BlockId, None] = OrderedDict((BlockId(block), None) for block in range(num_blocks))
        for block in cached:
            self._free.move_to_end(block)

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    def ref_count(self, block: BlockId) -> int:
        """How many block tables hold this block."""
        return self._ref_counts[block]

    def allocate(self) -> BlockId:
        """Hand out the block that is evicted first. Its old content is lost.

        Raises:
            IndexError: no block is free; ask `num_free` first.
        """
        if not self._free:
            raise IndexError("no free block")
        block, _ = self._free.popitem(last=False)
        self._ref_counts[block] = 1
        return block

    def share(self, block: BlockId) -> None:
        """Hold a block once more, with its content; it may be free."""
        if self._ref_counts[block] == 0:
            del self._free[block]
        self._ref_counts[block] += 1

    def release(self, block: BlockId, *, is_cached: bool) -> None:
        """Let go of a block once. Released by all, it is free; a cached one is then the last to be evicted."""
        assert self._ref_counts[block] > 0, f"block {block} is released more often than held"
        self._ref_counts[block] -= 1
        if self._ref_counts[block] == 0:
            self._free[block] = None
            if not is_cached:
                self._free.move_to_end(block, last=False)

    def check(self) -> None:
        """Assert the invariants."""
        for block, ref_count in enumerate(self._ref_counts):
            assert ref_count >= 0, f"block {block} has ref count {ref_count}"
            assert (ref_count == 0) == (BlockId(block) in self._free), (
                f"block {block}: ref count {ref_count} and free list"
            )
        assert len(self._ref_counts) == self.num_blocks
