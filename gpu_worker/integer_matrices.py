"""Matrices of small integers with a scale and a zero point for each group, whatever format they were stored in."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.arguments import BlockMatrix

_BLOCK: int = 32
_NIBBLE_BITS = 4
_BYTE_ZERO = 128


@dataclass(frozen=True, slots=True)
class IntegerMatrix:
    """A number is `(quant - zero) * scale` of its row and its column's group.

    Attributes:
        bits: Of a quant, 4 or 8.
        quants: [out_features, in_features] u8.
        scales: [out_features, num_groups], floats.
        zeros: [out_features, num_groups] int32.
        groups: [in_features] int64, each column's group.
    """

    bits: int
    quants: Tensor
    scales: Tensor
    zeros: Tensor
    groups: Tensor

    def dequantize(self) -> Tensor:
        """The numbers, [out_features, in_features] float32; exact for 16-bit scales."""
        scales, zeros = self.scales.float()[:, self.groups], self.zeros[:, self.groups]
        return (self.quants.int() - zeros).float() * scales

    def packed(self) -> BlockMatrix | None:
        """The same numbers in blocks that the kernels multiply; None where no such blocks hold them exactly.

        Each 32 columns must lie in one group, and scales must be fp16 numbers. Zeros of 8 bits must be 128.
        """
        out_features, in_features = self.quants.shape
        if in_features % _BLOCK:
            return None
        groups = self.groups.view(-1, _BLOCK)
        scales = self.scales[:, groups[:, 0]]
        halves = scales.half()
        if not (groups == groups[:, :1]).all() or not torch.equal(halves.to(scales.dtype), scales):
            return None
        zeros, quants = self.zeros[:, groups[:, 0]], self.quants.view(out_features, -1, _BLOCK)
        if self.bits == _NIBBLE_BITS:
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
    shifts = torch.arange(0, 32, bits)
    places: Tensor = numbers.long().reshape(*numbers.shape[:-1], -1, 32 // bits) << shifts
    return places.sum(-1).to(torch.int32)
