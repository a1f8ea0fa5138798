"""How much memory the cache gets: what was asked for, what a GPU has left, or a share of the host's."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from shared.errors import ConfigurationError

_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_MAX_DEFAULT_BYTES: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """A GPU's memory after the largest step, in bytes.

    Attributes:
        total: Of the GPU.
        free: Now.
        reserved: By this process's tensors now: weights.
        peak: As `reserved`, at most during the step: weights, activations, logits.
    """

    total: int
    free: int
    reserved: int
    peak: int

    @property
    def foreign(self) -> int:
        """Of other processes, and of the driver and the kernels of this one."""
        return self.total - self.free - self.reserved

    def left(self, utilization: float) -> int:
        """For the cache, if this process may use such a share of the whole.

        Raises:
            ConfigurationError: nothing is left.
        """
        allowed = int(self.total * utilization)
        left = allowed - self.foreign - self.peak
        if left <= 0:
            raise ConfigurationError(
                f"--gpu-memory-utilization {utilization} of {_gib(self.total)} is {_gib(allowed)}, but a step takes "
                f"{_gib(self.peak)}, weights included, and others and the driver have {_gib(self.foreign)}: nothing is "
                "left for the KV cache; raise it, lower --max-num-batched-tokens or --max-num-seqs, or end what else "
                "uses the GPU"
            )
        return left


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def cache_memory_bytes(
    device: torch.device,
    *,
    kv_cache_memory_bytes: int | None,
    gpu_memory_utilization: float,
    run_largest_step: Callable[[], None],
) -> int:
    """Memory to be given to the cache, once the weights are loaded.

    Without a figure of the user's: on a GPU what is left of `gpu_memory_utilization` of its memory after the largest
    step, on a CPU a quarter of the machine's or the container's memory, 4 GiB at most.

    Raises:
        ConfigurationError: a GPU has nothing left.
    """
    if kv_cache_memory_bytes is not None:
        return kv_cache_memory_bytes
    if device.type == "cuda":
        return _measure(device, run_largest_step).left(gpu_memory_utilization)
    return min(_host_memory_bytes() // 4, _MAX_DEFAULT_BYTES)


def _measure(device: torch.device, run_largest_step: Callable[[], None]) -> MemoryUse:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run_largest_step()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return MemoryUse(total, free, torch.cuda.memory_reserved(device), peak)


def _host_memory_bytes() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(machine, int(limit)) if limit.isdecimal() else machine
