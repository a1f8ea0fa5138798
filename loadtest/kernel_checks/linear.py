"""Checks of quantized linear layers, beside the product with the numbers that the formats stand for."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from kernels.triton.device import target_of
from kernels.triton.launches import multiplies_fp8
from kernels.triton.packed_linear import PackedLinear
from kernels.triton.rounding import round_rows
from kernels.triton.scaled_linear import ScaledLinear
from loadtest.kernel_checks.check import TOLERANCE, Comparison, KernelCheck

Compare = Callable[[torch.device], Iterator[Comparison]]

_IN, _OUT, _GROUP = 96, 72, 32
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
_IN_ORDER: Final = tuple(range(8))
_PACKED: Final = ("packed_linear_kernel",)
_SCALED: Final = ("scaled_linear_kernel",)
_ROUNDED: Final = ("round_rows_kernel", "scaled_linear_kernel")


def pack_words(quants: Tensor, order: Sequence[int]) -> Tensor:
    """Eight to a word along the last dimension, by the formats' specifications; nibble i is column order[i]."""
    eights = quants.view(*quants.shape[:-1], -1, 8).long()
    words = torch.zeros(eights.shape[:-1], dtype=torch.int64)
    for nibble, column in enumerate(order):
        words |= eights[..., column] << (4 * nibble)
    return (words - (words >> 31 << 32)).int()


class _Weights:
    """Random ones in groups, as AWQ and GPTQ store them; `numbers` [in, out] is what they mean."""

    def __init__(self, group_index: Tensor, dtype: torch.dtype) -> None:
        self.quants = torch.randint(0, 16, (_IN, _OUT))
        self.zeros = torch.randint(1, 16, (_IN // _GROUP, _OUT))
        self.scales = (torch.rand(_IN // _GROUP, _OUT) * 0.1 + 0.01).to(dtype)
        self.numbers = (self.quants - self.zeros[group_index]) * self.scales.float()[group_index]

    def awq(self, device: torch.device, bias: Tensor | None = None) -> PackedLinear:
        words, zeros = pack_words(self.quants, _AWQ_ORDER), pack_words(self.zeros, _AWQ_ORDER)
        own_bias = None if bias is None else bias.to(device)
        return PackedLinear(words.to(device), zeros.to(device), self.scales.to(device), "awq", bias=own_bias)

    def gptq(self, device: torch.device, version: int, group_index: Tensor | None = None) -> PackedLinear:
        words = pack_words(self.quants.T.contiguous(), _IN_ORDER).T.contiguous()
        offset = 1 if version == 1 else 0
        index = None if group_index is None else group_index.int().to(device)
        zeros = pack_words(self.zeros - offset, _IN_ORDER)
        scales = self.scales.to(device)
        return PackedLinear(words.to(device), zeros.to(device), scales, "gptq", index, zero_offset=offset)


def _product(found: Tensor, expected: Tensor, dtype: torch.dtype) -> Comparison:
    """Relative to the largest number."""
    largest = float(expected.abs().max())
    return Comparison(found.float() / largest, expected / largest, TOLERANCE[dtype])


def _four_bits(dtype: torch.dtype) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        in_order = torch.arange(_IN) // _GROUP
        act_order = in_order[torch.randperm(_IN)]
        x = torch.randn(5, _IN).to(dtype)
        ordered, shuffled = _Weights(in_order, dtype), _Weights(act_order, dtype)
        for linear, weights in (
            (ordered.awq(device), ordered),
            (ordered.gptq(device, 1), ordered),
            (ordered.gptq(device, 2), ordered),
            (shuffled.gptq(device, 1, act_order), shuffled),
        ):
            yield _product(linear(x.to(device)), x.float() @ weights.numbers, dtype)

    return compare


def _any_rows(num_rows: int) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        weights, bias = _Weights(torch.arange(_IN) // _GROUP, torch.float16), torch.randn(_OUT).half()
        x = torch.randn(num_rows, _IN).half()
        expected = x.float() @ weights.numbers + bias.float()
        found = weights.awq(device, bias)(x.to(device))
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
        steps, scales, numbers = _in_fp8(block, (130, 200))
        x = torch.randn(3, 200).to(dtype)
        linear = ScaledLinear(steps.to(device), scales.to(device), block, keeps_activations=True)
        yield _product(linear(x.to(device)), x.float() @ numbers, dtype)

    return compare


def _fp8_both(block: tuple[int, int]) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        steps, scales, numbers = _in_fp8(block, (72, 256))
        x = torch.randn(3, 256).half()
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
            f"AWQ, GPTQ of both versions and act-order, {name}",
            _PACKED,
            _four_bits(dtype),
            is_quick=dtype == torch.float16,
        )
        for label, block in (("per tensor", (130, 200)), ("128x128", (128, 128))):
            yield KernelCheck(f"weights in fp8, {label}, {name}", _SCALED, _fp8_weights(block, dtype))
    for num_rows in (0, 17, 65):
        yield KernelCheck(f"AWQ with a bias, {num_rows} rows", _PACKED, _any_rows(num_rows))
    for label, block in (("per tensor", (72, 256)), ("128x128", (128, 128))):
        yield KernelCheck(f"weights and activations in fp8, {label}", _ROUNDED, _fp8_both(block))
    yield KernelCheck("rows of int8", _ROUNDED, _int8, is_quick=True)


LINEAR: Final = tuple(_checks())
