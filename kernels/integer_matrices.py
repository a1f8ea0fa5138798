"""Matrices of small integers: into words and out of them, and into blocks that CPUs multiply."""

import torch
from torch import Tensor

from kernels.arguments import BlockMatrix, IntegerMatrix

_BLOCK: int = 32
_NIBBLE_BITS = 4
_BYTE_ZERO = 128


def in_blocks(matrix: IntegerMatrix) -> BlockMatrix | None:
    """The same numbers in blocks that the CPU's kernels multiply; None where no such blocks hold them exactly.

    Each 32 columns must lie in one group, and scales must be fp16 numbers. Zeros of 8 bits must be 128.
    """
    out_features, in_features = matrix.shape
    if in_features % _BLOCK:
        return None
    groups = matrix.groups.view(-1, _BLOCK)
    scales = matrix.scales[:, groups[:, 0]]
    halves = scales.half()
    if not (groups == groups[:, :1]).all() or not torch.equal(halves.to(scales.dtype), scales):
        return None
    zeros, quants = matrix.zeros[:, groups[:, 0]], matrix.quants.view(out_features, -1, _BLOCK)
    if matrix.bits == _NIBBLE_BITS:
        nibbles = quants[..., : _BLOCK // 2] | quants[..., _BLOCK // 2 :] << _NIBBLE_BITS
        return BlockMatrix("Q4_Z", torch.cat((_bytes(halves), _bytes(zeros.half()), nibbles), dim=-1))
    if (zeros != _BYTE_ZERO).any():
        return None
    return BlockMatrix("Q8_0", torch.cat((_bytes(halves), quants ^ _BYTE_ZERO), dim=-1))


def _bytes(halves: Tensor) -> Tensor:
    """[..., 2] u8."""
    return halves.contiguous().view(torch.uint8).view(*halves.shape, 2)


def unpack(words: Tensor, bits: int) -> Tensor:
    """The unsigned numbers of 32-bit words, lowest bits first: [..., n] int32 to [..., n * 32 / bits] int32."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers: Tensor = (words[..., None] >> shifts) & (2**bits - 1)
    return numbers.flatten(-2)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """The reverse of `unpack`."""
    per_word = 32 // bits
    words = torch.zeros(*numbers.shape[:-1], numbers.shape[-1] // per_word, dtype=torch.int64, device=numbers.device)
    for place in range(per_word):
        words |= numbers[..., place::per_word].long() << (place * bits)
    return words.to(torch.int32)
