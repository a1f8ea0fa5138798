"""Which block holds which prefix: hash-chained block contents (Kwon et al. 2023; vLLM's automatic prefix caching)."""

from collections.abc import Iterator
from hashlib import blake2b

from shared.cached_blocks import BLOCK_HASH_BYTES, NOTHING_CACHED, BlockHash, CachedBlocks
from shared.ids import BlockId


def root_hash(salt: str) -> BlockHash:
    """The parent of first blocks. Only requests of the same salt share prefixes."""
    return BlockHash(blake2b(salt.encode(), digest_size=BLOCK_HASH_BYTES, person=b"pagestream-root").digest())


def chain_hash(parent: BlockHash, tokens: bytes) -> BlockHash:
    """The hash of a full block.

    Args:
        parent: Hash of the block before it, or the root.
        tokens: Its token ids as u32.
    """
    return BlockHash(blake2b(tokens, digest_size=BLOCK_HASH_BYTES, key=parent).digest())


class PrefixCache:
    """Block hash to block, for blocks that are held and for free ones that were not evicted yet.

    When a second block comes to hold the same prefix it is not entered: block tables are append-only, so a sequence
    keeps its own copy rather than being switched to the first.

    The worker is told of entries, and gives them back to the next leader: its cache outlives the one who fills it.

    Invariant, checked by `check`: the two maps are inverse to each other; what is to be told is entered.

    Args:
        cached: What the worker says of its blocks as it joins.
    """

    def __init__(self, cached: CachedBlocks = NOTHING_CACHED) -> None:
        self._block_by_hash: dict[BlockHash, BlockId] = {}
        self._hash_by_block: dict[BlockId, BlockHash] = {}
        self._untold: dict[BlockId, None] = {}
        for block, block_hash in cached:
            self.publish(block_hash, block)
        self._untold.clear()

    def __len__(self) -> int:
        return len(self._block_by_hash)

    def __iter__(self) -> Iterator[BlockId]:
        """Blocks, the one that was entered first comes first."""
        return iter(self._hash_by_block)

    def __contains__(self, block: BlockId) -> bool:
        return block in self._hash_by_block

    def match(self, hashes: list[BlockHash]) -> list[BlockId]:
        """Blocks of the longest cached prefix of a chain."""
        blocks: list[BlockId] = []
        for block_hash in hashes:
            block = self._block_by_hash.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def publish(self, block_hash: BlockHash, block: BlockId) -> None:
        """Let others find a full block."""
        if block_hash not in self._block_by_hash and block not in self._hash_by_block:
            self._block_by_hash[block_hash] = block
            self._hash_by_block[block] = block_hash
            self._untold[block] = None

    def take_untold(self) -> CachedBlocks:
        """Entries made since the last call that still stand."""
        if not self._untold:
            return NOTHING_CACHED
        untold, self._untold = self._untold, {}
        return CachedBlocks.of((block, self._hash_by_block[block]) for block in untold)

    def forget(self, block: BlockId) -> None:
        """The block's content is about to be overwritten."""
        block_hash = self._hash_by_block.pop(block, None)
        if block_hash is not None:
            del self._block_by_hash[block_hash]
            self._untold.pop(block, None)

    def check(self) -> None:
        """Assert the invariant."""
        assert len(self._block_by_hash) == len(self._hash_by_block)
        for block_hash, block in self._block_by_hash.items():
            assert self._hash_by_block[block] == block_hash
        assert self._untold.keys() <= self._hash_by_block.keys()
