"""How each kernel is launched on each target: tiles, warps, stages. `make kernels-aot` checks what they take."""

from dataclasses import dataclass
from typing import Final

import torch
import triton

from kernels.triton.device import Target

_LARGEST_DECODE_ROWS: Final = 64
_WIDE_HEAD: Final = 128
"""Heads above it leave registers for fewer rows."""


@dataclass(frozen=True, slots=True)
class AttentionLaunch:
    """Of an attention kernel.

    Attributes:
        rows: Queries of a program: tokens times heads of a group.
        tile: Keys that are read at once.
        num_warps: Of a program.
        num_stages: Of the software pipeline over the tiles.
    """

    rows: int
    tile: int
    num_warps: int
    num_stages: int


def prefill_launch(target: Target, *, head_dim: int, group: int, dtype: torch.dtype) -> AttentionLaunch:
    """Of `prefill_attention_kernel`. From 64 rows on, sm_90a multiplies by wgmma."""
    if dtype == torch.float32:
        return AttentionLaunch(max(16, triton.next_power_of_2(group)), 16, 4, 1)
    least_rows = triton.next_power_of_2(group)
    if head_dim > _WIDE_HEAD:
        return AttentionLaunch(max(64, least_rows), 32, 8, 2)
    if target == "sm_90a":
        return AttentionLaunch(max(128, least_rows), 64, 8, 2)
    return AttentionLaunch(max(64, least_rows), 32, 4, 2)


def decode_launch(target: Target, *, head_dim: int, group: int, dtype: torch.dtype) -> AttentionLaunch:
    """Of `decode_attention_kernel`; 16 rows are the least that matrix units take."""
    rows = min(max(16, triton.next_power_of_2(group)), _LARGEST_DECODE_ROWS)
    return AttentionLaunch(rows, 32, 4, 2)


def num_warps_for_row(size: int) -> int:
    """Of a program that holds a row of `size` numbers in registers."""
    return min(max(size // 512, 1), 16)
