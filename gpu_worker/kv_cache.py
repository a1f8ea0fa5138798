"""The keys and values of all running and cached sequences: one pair of tensors a layer, cut into blocks.

How the numbers of a block lie is the ops' affair (`Ops.cache_shapes`); blocks come first. A token's slot is
`block * block_size + offset`.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.cache_rows import row_size
from kernels.ops import Ops
from shared.errors import ConfigurationError
from shared.model_config import ModelConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """How large a cache is.

    Attributes:
        max_model_len: Tokens of one sequence at most; its blocks are there.
    """

    block_size: int
    num_blocks: int
    max_model_len: int

    @classmethod
    def fit(
        cls, config: ModelConfig, *, block_size: int, dtype: torch.dtype, memory_bytes: int, max_model_len: int | None
    ) -> "CacheGeometry":
        """Use this much memory.

        Args:
            config: Of the model.
            block_size: Tokens of a block.
            dtype: Of keys and values.
            memory_bytes: For the cache alone.
            max_model_len: As asked for; None means as much as the model and the memory allow.

        Raises:
            ConfigurationError: the model or the memory does not allow what was asked for.
        """
        longest = max_model_len or config.max_context
        if longest > config.max_context:
            raise ConfigurationError(
                f"--max-model-len {longest} is more than the model's {config.max_context} tokens; lower it"
            )
        block_bytes = bytes_per_block(config, block_size=block_size, dtype=dtype)
        num_blocks = memory_bytes // block_bytes
        if num_blocks * block_size >= longest:
            return cls(block_size, num_blocks, longest)
        needed = -(-longest // block_size) * block_bytes
        if max_model_len is not None or num_blocks == 0:
            raise ConfigurationError(
                f"the KV cache of {memory_bytes:,} bytes cannot hold one sequence of {longest} tokens, which takes "
                f"{needed:,}; raise --kv-cache-memory-bytes (on a GPU --gpu-memory-utilization), "
                f"or lower --max-model-len to {num_blocks * block_size} or less"
            )
        logger.warning(
            "the KV cache holds %d of the model's %d tokens: max_model_len is lowered to that "
            "(--kv-cache-memory-bytes %d would hold them all)",
            num_blocks * block_size,
            longest,
            needed,
        )
        return cls(block_size, num_blocks, num_blocks * block_size)


class KVCache:
    """Owns the tensors. Which block holds what is the scheduler's."""

    def __init__(
        self, config: ModelConfig, geometry: CacheGeometry, ops: Ops, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        keys, values = ops.cache_shapes(
            geometry.num_blocks, geometry.block_size, config.num_key_value_heads, row_size(config.head_dim, dtype)
        )
        # Not zeroed: no op reads a slot that nobody wrote, and touching 4 GiB takes 7 s of the start (2 cores).
        self._layers = [
            (torch.empty(keys, dtype=dtype, device=device), torch.empty(values, dtype=dtype, device=device))
            for _ in range(config.num_hidden_layers)
        ]
        self._copy = ops.copy_blocks

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values."""
        return self._layers[index]

    def copy_blocks(self, sources: list[int], destinations: list[int]) -> None:
        """Copy each source block to the destination at the same place of its list."""
        pairs = torch.tensor([sources, destinations]).T.contiguous().to(self._layers[0][0].device)
        for tensors in self._layers:
            for tensor in tensors:
                self._copy(tensor, tensor, pairs)


def bytes_per_block(config: ModelConfig, *, block_size: int, dtype: torch.dtype) -> int:
    """Memory of one block in all layers, the scales of int8 included."""
    row_bytes = row_size(config.head_dim, dtype) * dtype.itemsize
    return 2 * config.num_hidden_layers * block_size * config.num_key_value_heads * row_bytes
