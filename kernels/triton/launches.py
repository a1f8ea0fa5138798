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
    """Of `prefill_attention_kernel`. From 64 rows on, sm_90a multiplies by wgmma; measured on an H100."""
    if dtype == torch.float32:
        return AttentionLaunch(max(16, triton.next_power_of_2(group)), 16, 4, 1)
    least_rows = triton.next_power_of_2(group)
    if head_dim > _WIDE_HEAD:
        rows = max(64, least_rows)
        return {
            "sm_80": AttentionLaunch(rows, 16, 8, 2),
            "sm_89": AttentionLaunch(rows, 32, 8, 2),
            "sm_90a": AttentionLaunch(rows, 32, 8, 2),
            "gfx942": AttentionLaunch(rows, 32, 4, 2),
        }[target]
    if target == "sm_90a":
        return AttentionLaunch(max(64, least_rows), 64, 4, 2)
    return AttentionLaunch(max(64, least_rows), 32, 4, 2)


def decode_launch(target: Target, *, head_dim: int, group: int, dtype: torch.dtype) -> AttentionLaunch:
    """Of `decode_attention_kernel`; 16 rows are the least that matrix units take. sm_90a's was measured on an H100."""
    rows = min(max(16, triton.next_power_of_2(group)), _LARGEST_DECODE_ROWS)
    if target == "sm_90a" and head_dim <= _WIDE_HEAD and dtype != torch.float32 and rows <= 16:  # noqa: PLR2004
        return AttentionLaunch(rows, 128, 4, 2)
    return AttentionLaunch(rows, 32, 8 if head_dim > _WIDE_HEAD else 4, 2)


def num_warps_for_row(size: int) -> int:
    """Of a program that holds a row of `size` numbers in registers."""
    return min(max(size // 512, 1), 16)


@dataclass(frozen=True, slots=True)
class LinearLaunch:
    """Of a linear layer's kernel: the tile of the output that a program makes, and how deep its steps are.

    Attributes:
        rows: Tokens.
        columns: Output features.
        depth: Input features of a step.
        num_warps: Of a program.
        num_stages: Of the software pipeline over the steps.
    """

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


MAX_DECODE_ROWS: Final = 32
"""Above it a step computes more than it waits for weights."""
_MAX_WAITING_ROWS: Final = 256
"""Above it all programs of a wide tile find work."""


def packed_linear_launch(target: Target, *, num_rows: int, group_size: int) -> LinearLaunch:
    """Of `packed_linear_kernel`. A step never spans two groups of weights. sm_90a's were measured on an H100."""
    most = group_size & -group_size
    depth = min(64, most)
    if num_rows > MAX_DECODE_ROWS:
        if target == "sm_90a":
            return LinearLaunch(64 if num_rows <= 64 else 128, 64, depth, 4, 4)  # noqa: PLR2004
        return LinearLaunch(64, 64, depth, 4, 2 if target == "gfx942" else 3)
    rows = 16 if num_rows <= 16 else 32  # noqa: PLR2004  the least that matrix units take
    if target == "sm_90a":
        return LinearLaunch(rows, 128, min(128, most) if rows == 16 else depth, 4, 4)  # noqa: PLR2004
    return LinearLaunch(rows, 64, depth, 4, 2 if target == "gfx942" else 3)


def multiplies_fp8(target: Target) -> bool:
    """Whether the target's matrix units multiply e4m3 as checkpoints have it; gfx942 has another fp8."""
    return target in {"sm_89", "sm_90a"}


def scaled_linear_launch(target: Target, *, num_rows: int, rounds: bool, in_block: int) -> LinearLaunch:
    """Of `scaled_linear_kernel`. A step never spans two blocks of weights."""
    depth = min(128 if rounds else 64, in_block & -in_block)
    rows = 64 if num_rows > MAX_DECODE_ROWS else 16 if num_rows <= 16 else 32  # noqa: PLR2004  as above
    columns = 128 if target == "sm_90a" and num_rows > _MAX_WAITING_ROWS else 64
    return LinearLaunch(rows, columns, depth, 4, 2 if target == "gfx942" else 3)


@dataclass(frozen=True, slots=True)
class SampleLaunch:
    """Of the sampling kernel.

    Attributes:
        columns: Of the vocabulary, looked at together.
        num_warps: Of a program; as many as there can be, since a row has one program.
    """

    columns: int
    num_warps: int


def sample_launch(target: Target) -> SampleLaunch:
    """Of `sample_kernel`."""
    return SampleLaunch(4096, 16 if target == "gfx942" else 32)
