"""What full blocks of a worker's KV cache hold, as scheduler and worker tell each other."""

from collections.abc import Iterable, Iterator
from typing import Final, NewType, Self

import msgspec

from shared.ids import BlockId
from shared.packing import pack_u32, unpack_u32

BlockHash = NewType("BlockHash", bytes)
"""Names a full block's tokens together with everything before them. 128 bits: a collision is not expected to occur."""

BLOCK_HASH_BYTES: Final = 16
_BLOCK_ID_BYTES: Final = 4


class CachedBlocks(msgspec.Struct, frozen=True, array_like=True):
    """Blocks and the hashes of their contents.

    Attributes:
        blocks: u32.
        hashes: `BLOCK_HASH_BYTES` for each of them.
    """

    blocks: bytes = b""
    hashes: bytes = b""

    def __post_init__(self) -> None:
        """See that each block has a hash.

        Raises:
            ValueError: one has none.
        """
        num_blocks, rest = divmod(len(self.blocks), _BLOCK_ID_BYTES)
        if rest or len(self.hashes) != num_blocks * BLOCK_HASH_BYTES:
            raise ValueError(f"{len(self.hashes)} bytes of hashes for {len(self.blocks)} bytes of blocks")

    @classmethod
    def of(cls, contents: Iterable[tuple[BlockId, BlockHash]]) -> Self:
        """Pack them, in this order."""
        pairs = list(contents)
        return cls(pack_u32(block for block, _ in pairs), b"".join(block_hash for _, block_hash in pairs))

    def __iter__(self) -> Iterator[tuple[BlockId, BlockHash]]:
        """Unpack them."""
        for index, block in enumerate(unpack_u32(self.blocks)):
            start = index * BLOCK_HASH_BYTES
            yield BlockId(block), BlockHash(self.hashes[start : start + BLOCK_HASH_BYTES])


NOTHING_CACHED: Final = CachedBlocks()
