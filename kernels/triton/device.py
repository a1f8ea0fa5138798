"""Which GPU a kernel is compiled for, and how many processors share the work."""

from functools import cache
from typing import Final, Literal

import torch
import triton

Target = Literal["sm_80", "sm_89", "sm_90a", "gfx942"]

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret

_MULTIPROCESSORS: Final[dict[Target, int]] = {"sm_80": 108, "sm_89": 142, "sm_90a": 132, "gfx942": 304}
"""Of A100, L40S, H100 and MI300X."""


@cache
def target_of(device: torch.device) -> Target:
    """The target whose launches fit a device best; in the interpreter sm_90a's."""
    if device.type != "cuda":
        return "sm_90a"
    if torch.version.hip is not None:
        return "gfx942"
    capability = torch.cuda.get_device_capability(device)
    if capability >= (9, 0):
        return "sm_90a"
    return "sm_89" if capability >= (8, 9) else "sm_80"


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors, or AMD's compute units."""
    if device.type != "cuda":
        return _MULTIPROCESSORS["sm_90a"]
    return torch.cuda.get_device_properties(device).multi_processor_count


def widens(dtype: torch.dtype) -> bool:
    """Whether kernels must widen operands of this dtype, which the interpreter takes for integers."""
    return INTERPRETED and dtype == torch.bfloat16
