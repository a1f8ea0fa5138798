"""Quantized linear layers beside the product with the numbers that the formats stand for.

Checkpoints are written here by hand, from the formats' specifications.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kernels.triton.packed_linear import PackedLinear
from kernels.triton.rounding import round_rows
from kernels.triton.scaled_linear import ScaledLinear

IN, OUT, GROUP = 96, 72, 32
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
IN_ORDER = range(8)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def packed(quants: Tensor, order: Sequence[int]) -> Tensor:
    """Eight to a word along the last dimension; nibble i is column order[i]."""
    eights = quants.view(*quants.shape[:-1], -1, 8).long()
    words = sum(eights[..., column] << (4 * nibble) for nibble, column in enumerate(order))
    return (words - (words >> 31 << 32)).int()


class Weights:
    def __init__(self, group_index: Tensor, dtype: torch.dtype) -> None:
        self.quants = torch.randint(0, 16, (IN, OUT))
        self.zeros = torch.randint(1, 16, (IN // GROUP, OUT))
        self.scales = (torch.rand(IN // GROUP, OUT) * 0.1 + 0.01).to(dtype)
        self.numbers = (self.quants - self.zeros[group_index]) * self.scales.float()[group_index]

    def awq(self) -> PackedLinear:
        return PackedLinear(packed(self.quants, AWQ_ORDER), packed(self.zeros, AWQ_ORDER), self.scales, "awq")

    def gptq(self, version: int, group_index: Tensor | None = None) -> PackedLinear:
        words = packed(self.quants.T.contiguous(), IN_ORDER).T.contiguous()
        offset = 1 if version == 1 else 0
        index = None if group_index is None else group_index.int()
        zeros = packed(self.zeros - offset, IN_ORDER)
        return PackedLinear(words, zeros, self.scales, "gptq", index, zero_offset=offset)


def assert_linear(linear: PackedLinear | ScaledLinear, x: Tensor, numbers: Tensor) -> None:
    """numbers: [in_features, out_features]."""
    found = linear(x)
    assert found.dtype == x.dtype
    expected = x.float() @ numbers
    tolerance = TOLERANCE[x.dtype] * float(expected.abs().max())
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_four_bit_weights_of_every_format(dtype: torch.dtype) -> None:
    in_order = torch.arange(IN) // GROUP
    act_order = in_order[torch.randperm(IN)]
    x = torch.randn(5, IN).to(dtype)
    ordered, shuffled = Weights(in_order, dtype), Weights(act_order, dtype)
    assert_linear(ordered.awq(), x, ordered.numbers)
    assert_linear(ordered.gptq(1), x, ordered.numbers)
    assert_linear(ordered.gptq(2), x, ordered.numbers)
    assert_linear(shuffled.gptq(1, act_order), x, shuffled.numbers)


@pytest.mark.parametrize("num_rows", [0, 17, 65])
def test_any_number_of_rows_with_a_bias(num_rows: int) -> None:
    weights = Weights(torch.arange(IN) // GROUP, torch.float16)
    plain = weights.awq()
    bias = torch.randn(OUT).half()
    linear = PackedLinear(plain.words, plain.zeros, plain.scales, "awq", bias=bias)
    x = torch.randn(num_rows, IN).half()
    expected = x.float() @ weights.numbers + bias.float()
    torch.testing.assert_close(linear(x).float(), expected, atol=2e-2, rtol=2e-3)


def rounded_to_fp8(block: tuple[int, int], shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Weights in fp8, their scales, and the numbers [in, out] that they stand for."""
    weight = torch.randn(shape) * torch.rand(shape[0], 1)
    rows, columns = (-(-size // part) for size, part in zip(shape, block, strict=True))
    scales = torch.rand(rows, columns) * 0.01 + 0.001
    spread = scales.repeat_interleave(block[0], 0)[: shape[0]].repeat_interleave(block[1], 1)[:, : shape[1]]
    steps = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    return steps, scales, (steps.float() * spread).T


@pytest.mark.parametrize("block", [(130, 200), (128, 128)], ids=["per tensor", "128x128"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_fp8_weights_and_activations_as_they_are(block: tuple[int, int], dtype: torch.dtype) -> None:
    steps, scales, numbers = rounded_to_fp8(block, (130, 200))
    assert_linear(ScaledLinear(steps, scales, block, keeps_activations=True), torch.randn(3, 200).to(dtype), numbers)


@pytest.mark.parametrize("block", [(72, 256), (128, 128)], ids=["per tensor", "128x128"])
def test_fp8_weights_and_rounded_activations(block: tuple[int, int]) -> None:
    steps, scales, numbers = rounded_to_fp8(block, (72, 256))
    x = torch.randn(3, 256).half()
    rounded, x_scales = round_rows(x, torch.float8_e4m3fn, block[1])
    as_rounded = rounded.float() * x_scales.repeat_interleave(block[1], 1)
    torch.testing.assert_close(as_rounded, x.float(), atol=0, rtol=2**-4 + 1e-6)
    found = ScaledLinear(steps, scales, block)(x)
    expected = as_rounded @ numbers
    torch.testing.assert_close(found.float(), expected, atol=2e-3 * float(expected.abs().max()), rtol=0)


def test_int8_rows_of_weights_and_activations() -> None:
    weight, scales = torch.randint(-127, 128, (72, 96), dtype=torch.int8), torch.rand(72, 1) * 0.01
    x = torch.randn(20, 96)
    x[3] = 0
    x[4] *= 1000
    steps, x_scales = round_rows(x, torch.int8, 96)
    assert torch.equal(steps, (x / x_scales).round().to(torch.int8))
    expected = (steps.double() @ weight.double().T).float() * x_scales * scales.T
    found = ScaledLinear(weight, scales, (1, 96))(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
