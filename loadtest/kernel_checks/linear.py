"""Checks of quantized linear layers, beside the product with the numbers that the formats stand for."""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from kernels.triton.device import target_of
from kernels.triton.launches import multiplies_fp8
from kernels.triton.packed_linear import MAX_UNPACKING_ROWS, PackedLinear
from kernels.triton.rounding import round_rows
from kernels.triton.scaled_linear import ScaledLinear
from loadtest.kernel_checks.check import TOLERANCE, Comparison, KernelCheck

Compare = Callable[[torch.device], Iterator[Comparison]]

_IN, _OUT, _GROUP = 96, 72, 32
_PACKED: Final = ("packed_linear_kernel",)
_UNPACKED: Final = ("unpack_weights_kernel",)
_SPLIT: Final = ("packed_linear_kernel", "add_shares_kernel")
_SCALED: Final = ("scaled_linear_kernel",)
_ROUNDED: Final = ("round_rows_kernel", "scaled_linear_kernel")


def pack_words(quants: Tensor) -> Tensor:
    """Eight to a word along the last dimension, by GPTQ's specification."""
    eights = quants.view(*quants.shape[:-1], -1, 8).long()
    words = torch.zeros(eights.shape[:-1], dtype=torch.int64)
    for nibble in range(8):
        words |= eights[..., nibble] << (4 * nibble)
    return (words - (words >> 31 << 32)).int()


class _Weights:
    """Random ones in groups; `numbers` [in, out] is what they mean."""

    def __init__(self, group_index: Tensor, dtype: torch.dtype) -> None:
        self._order = None if torch.equal(group_index, group_index.sort()[0]) else group_index.argsort()
        num_groups = int(group_index.max()) + 1
        self._quants = torch.randint(0, 16, (len(group_index), _OUT))
        self._zeros = torch.randint(1, 16, (num_groups, _OUT))
        self._scales = (torch.rand(num_groups, _OUT) * 0.1 + 0.01).to(dtype)
        self.numbers = (self._quants - self._zeros[group_index]) * self._scales.float()[group_index]

    def linear(self, device: torch.device, *, version: int = 2, bias: Tensor | None = None) -> PackedLinear:
        quants = self._quants if self._order is None else self._quants[self._order]
        words = pack_words(quants.T.contiguous()).T.contiguous()
        offset = 1 if version == 1 else 0
        return PackedLinear(
            words.to(device),
            pack_words(self._zeros - offset).to(device),
            self._scales.to(device),
            None if self._order is None else self._order.to(device),
            zero_offset=offset,
            bias=None if bias is None else bias.to(device),
        )


def _product(found: Tensor, expected: Tensor, dtype: torch.dtype) -> Comparison:
    """Relative to the largest number."""
    largest = float(expected.abs().max())
    return Comparison(found.float() / largest, expected / largest, TOLERANCE[dtype])


def _four_bits(dtype: torch.dtype, num_rows: int = 5) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        in_order = torch.arange(_IN) // _GROUP
        x = torch.randn(num_rows, _IN).to(dtype)
        ordered, shuffled = _Weights(in_order, dtype), _Weights(in_order[torch.randperm(_IN)], dtype)
        for linear, weights in (
            (ordered.linear(device), ordered),
            (ordered.linear(device, version=1), ordered),
            (shuffled.linear(device, version=1), shuffled),
        ):
            yield _product(linear(x.to(device)), x.float() @ weights.numbers, dtype)

    return compare


def _any_rows(num_rows: int, depth: int = _IN) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        weights, bias = _Weights(torch.arange(depth) // _GROUP, torch.float16), torch.randn(_OUT).half()
        x = torch.randn(num_rows, depth).half()
        expected = x.float() @ weights.numbers + bias.float()
        found = weights.linear(device, bias=bias)(x.to(device))
        yield _product(found, expected, torch.float16) if num_rows else Comparison(found, expected.half())

    return compare


def _in_fp8(block: tuple[int, int], shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, their scales, and the numbers [in, out] that they stand for."""
    weight = torch.randn(shape) * torch.rand(shape[0], 1)
    rows, columns = (-(-size // part) for size, part in zip(shape, block, strict=True))
    scales = torch.rand(rows, columns) * 0.01 + 0.001
    spread = scales.repeat_interleave(block[0], 0)[: shape[0]].repeat_interleave(block[1], 1)[:, : shape[1]]
    steps = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    return steps, scales, (steps.float() * spread).T


def _fp8_weights(block: tuple[int, int], dtype: torch.dtype) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        steps, scales, numbers = _in_fp8(block, (130, 224))
        x = torch.randn(3, 224).to(dtype)
        linear = ScaledLinear(steps.to(device), scales.to(device), block, keeps_activations=True)
        yield _product(linear(x.to(device)), x.float() @ numbers, dtype)

    return compare


def _fp8_both(block: tuple[int, int], depth: int = 256) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        steps, scales, numbers = _in_fp8(block, (72, depth))
        x = torch.randn(3, depth).half()
        rounded, x_scales = (part.cpu() for part in round_rows(x.to(device), torch.float8_e4m3fn, block[1]))
        as_rounded = rounded.float() * x_scales.repeat_interleave(block[1], 1)
        yield Comparison(as_rounded / x.float(), torch.ones_like(as_rounded), 2**-4 + 1e-6)
        linear = ScaledLinear(steps.to(device), scales.to(device), block)
        # Where the GPU does not multiply fp8, activations stay as they are: 3 bits of fraction apart.
        expected = as_rounded @ numbers
        largest = float(expected.abs().max())
        yield Comparison(linear(x.to(device)).float() / largest, expected / largest, _fp8_tolerance(device))

    return compare


def _fp8_tolerance(device: torch.device) -> float:
    return 2e-3 if multiplies_fp8(target_of(device)) else 2**-4


def _int8(device: torch.device) -> Iterator[Comparison]:
    weight, scales = torch.randint(-127, 128, (72, 96), dtype=torch.int8), torch.rand(72, 1) * 0.01
    x = torch.randn(20, 96)
    x[3] = 0
    x[4] *= 1000
    steps, x_scales = (part.cpu() for part in round_rows(x.to(device), torch.int8, 96))
    yield Comparison(steps, (x / x_scales).round().to(torch.int8))
    expected = (steps.double() @ weight.double().T).float() * x_scales * scales.T
    yield Comparison(ScaledLinear(weight.to(device), scales.to(device), (1, 96))(x.to(device)), expected, 1e-5)


def _checks() -> Iterator[KernelCheck]:
    for dtype in TOLERANCE:
        name = str(dtype).removeprefix("torch.")
        yield KernelCheck(
            f"four bits, GPTQ's first version and act-order, {name}",
            _PACKED,
            _four_bits(dtype),
            is_quick=dtype == torch.float16,
        )
        yield KernelCheck(
            f"four bits, unpacked before, {name}",
            _UNPACKED,
            _four_bits(dtype, MAX_UNPACKING_ROWS + 1),
            is_quick=dtype == torch.float16,
        )
        for label, block in (("per tensor", (130, 224)), ("128x128", (128, 128))):
            yield KernelCheck(f"weights in fp8, {label}, {name}", _SCALED, _fp8_weights(block, dtype))
    for num_rows in (0, 17, 65):
        yield KernelCheck(f"four bits with a bias, {num_rows} rows", _PACKED, _any_rows(num_rows))
    yield KernelCheck("four bits, depth split among programs", _SPLIT, _any_rows(3, 1056), is_quick=True)
    for label, block in (("per tensor", (72, 256)), ("128x128", (128, 128))):
        yield KernelCheck(f"weights and activations in fp8, {label}", _ROUNDED, _fp8_both(block))
    split = (*_ROUNDED, "add_shares_kernel")
    yield KernelCheck("weights and activations in fp8, depth split", split, _fp8_both((128, 128), 1152))
    yield KernelCheck("rows of int8", _ROUNDED, _int8, is_quick=True)


LINEAR: Final = tuple(_checks())
