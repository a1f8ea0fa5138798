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
_DRIVER_BYTES: Final = 1 << 30
"""What the driver, kernels and captured steps of a process take on a GPU beside its tensors; no process can ask."""


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

    def left(self, utilization: float) -> int:
        """For the cache, if this process may use such a share of the whole; no more than there is.

        What other processes use does not count as this one's: several share a GPU by a share each.

        Raises:
            ConfigurationError: nothing is left.
        """
        allowed = int(self.total * utilization)
        own = allowed - self.peak - _DRIVER_BYTES
        there = self.free - (self.peak - self.reserved)
        if min(own, there) <= 0:
            raise ConfigurationError(
                f"--gpu-memory-utilization {utilization} of {_gib(self.total)} is {_gib(allowed)}, a step takes "
                f"{_gib(self.peak)}, weights included, the driver about {_gib(_DRIVER_BYTES)}, and {_gib(self.free)} "
                "are free: nothing is left for the KV cache; raise it, lower --max-num-batched-tokens or "
                "--max-num-seqs, or end what else uses the GPU"
            )
        return min(own, there)


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
