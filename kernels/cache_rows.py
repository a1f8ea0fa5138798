"""How many numbers of the cache's dtype one token's keys or values of one head take."""

import torch

SCALE_BYTES = 4
"""Of the fp32 scale that follows a row of int8."""


def row_size(head_dim: int, dtype: torch.dtype) -> int:
    """Numbers of a row: `head_dim`, and for int8 the bytes of its scale after them."""
    return head_dim + SCALE_BYTES if dtype == torch.int8 else head_dim
