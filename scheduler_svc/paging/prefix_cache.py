"""Which block holds which prefix: hash-chained block contents (Kwon et al. 2023; vLLM's automatic prefix caching)."""

from hashlib import blake2b
from typing import NewType

from shared.ids import BlockId

BlockHash = NewType("BlockHash", bytes)
"""Names a full block's tokens together with everything before them. 128 bits: a collision is not expected to occur."""


def root_hash(salt: str) -> BlockHash:
    """The parent of first blocks. Only requests of the same salt share prefixes."""
    return BlockHash(blake2b(salt.encode(), digest_size=16, person=b"pagestream-root").digest())


def chain_hash(parent: BlockHash, tokens: bytes) -> BlockHash:
    """The hash of a full block.

    Args:
        parent: Hash of the block before it, or the root.
        tokens: Its token ids as u32.
    """
    return BlockHash(blake2b(tokens, digest_size=16, key=parent).digest())


class PrefixCache:
    """Block hash to block, for blocks that are held and for free ones that were not evicted yet.

    When a second block comes to hold the same prefix it is not entered: block tables are append-only, so a sequence
    keeps its own copy rather than being switched to the first.

    Invariant, checked by `check`: the two maps are inverse to each other.
    """

    def __init__(self) -> None:
        self._block_by_hash: dict[BlockHash, BlockId] = {}
        self._hash_by_block: dict[BlockId, BlockHash] = {}

    def __len__(self) -> int:
        return len(self._block_by_hash)

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

    def forget(self, block: BlockId) -> None:
        """The block's content is about to be overwritten."""
        block_hash = self._hash_by_block.pop(block, None)
        if block_hash is not None:
            del self._block_by_hash[block_hash]

    def check(self) -> None:
        """Assert the invariant."""
        assert len(self._block_by_hash) == len(self._hash_by_block)
        for block_hash, block in self._block_by_hash.items():
            assert self._hash_by_block[block] == block_hash
