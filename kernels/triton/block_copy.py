"""Copies blocks of a cache: within it (copy-on-write), or between it and a buffer on the way to or from the host."""

import torch
import triton
import triton.language as tl
from torch import Tensor

WORDS = 1024
"""Of 4 bytes, copied by one program."""


@triton.jit
def copy_blocks_kernel(to_ptr, from_ptr, pairs_ptr, block_words, WORDS: tl.constexpr):
    """pairs: [num_pairs, 2] int64, source and destination. Grid: (num_pairs, block_words / WORDS)."""
    pair = tl.program_id(0)
    source = tl.load(pairs_ptr + 2 * pair) * block_words
    destination = tl.load(pairs_ptr + 2 * pair + 1) * block_words
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    is_word = word < block_words
    tl.store(to_ptr + destination + word, tl.load(from_ptr + source + word, mask=is_word, other=0), mask=is_word)


def copy_blocks(source: Tensor, destination: Tensor, pairs: Tensor) -> None:
    """As the reference; tensors are contiguous, and a block's bytes are a multiple of 4."""
    if not len(pairs):
        return
    words_from, words_to = (tensor.view(len(tensor), -1).view(torch.int32) for tensor in (source, destination))
    block_words = words_from.shape[1]
    assert words_to.shape[1] == block_words, "blocks are of one size"
    grid = (len(pairs), triton.cdiv(block_words, WORDS))
    copy_blocks_kernel[grid](words_to, words_from, pairs, block_words, WORDS=WORDS, num_warps=4)
