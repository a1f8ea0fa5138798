"""The keys and values of all running and cached sequences: one pair of tensors a layer, cut into blocks.

How the numbers of a block lie is the ops' affair (`Ops.cache_shapes`); blocks come first. A token's slot is
`block * block_size + offset`.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from kernels.cache_rows import row_size
from kernels.ops import Ops
from shared.errors import ConfigurationError
from shared.model_config import ModelConfig

logger = logging.getLogger(__name__)

_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_MAX_DEFAULT_BYTES: Final = 4 << 30


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

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values."""
        return self._layers[index]

    def copy_blocks(self, sources: list[int], destinations: list[int]) -> None:
        """Copy each source block to the destination at the same place of its list."""
        for tensors in self._layers:
            for tensor in tensors:
                tensor[destinations] = tensor[sources]


def bytes_per_block(config: ModelConfig, *, block_size: int, dtype: torch.dtype) -> int:
    """Memory of one block in all layers, the scales of int8 included."""
    row_bytes = row_size(config.head_dim, dtype) * dtype.itemsize
    return 2 * config.num_hidden_layers * block_size * config.num_key_value_heads * row_bytes


def cache_memory_bytes(
    device: torch.device, *, kv_cache_memory_bytes: int | None, gpu_memory_utilization: float
) -> int:
    """Memory to be given to the cache, once the weights are loaded.

    Without a figure of the user's: on a GPU what is left of `gpu_memory_utilization` of its memory, on a CPU a quarter
    of the machine's or the container's memory, 4 GiB at most.
    """
    if kv_cache_memory_bytes is not None:
        return kv_cache_memory_bytes
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(free - total * (1 - gpu_memory_utilization)))
    return min(_host_memory_bytes() // 4, _MAX_DEFAULT_BYTES)


def _host_memory_bytes() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(machine, int(limit)) if limit.isdecimal() else machine
