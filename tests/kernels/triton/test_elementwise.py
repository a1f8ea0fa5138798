"""Norms, activations, rotation with the write to the cache, and block copies, beside the plain reference."""

import pytest
import torch

from kernels import reference
from kernels.triton.activations import gelu_and_mul, silu_and_mul
from kernels.triton.block_copy import copy_blocks
from kernels.triton.cache_write import rotate_and_write
from kernels.triton.norms import add_rms_norm, rms_norm

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
EVERY_DTYPE = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == expected.dtype
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(0, 64), (3, 576), (2, 33)], ids=str)
def test_norms_agree(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, *shape).to(dtype)
    weight = torch.randn(shape[1]).to(dtype)
    assert_close(rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    expected = reference.add_rms_norm(x, residual, weight, 1e-5)
    for found, wanted in zip(add_rms_norm(x, residual.clone(), weight, 1e-5), expected, strict=True):
        assert_close(found, wanted)


def test_rows_that_lie_apart_are_normed() -> None:
    wide, weight = torch.randn(3, 100), torch.randn(40)
    assert_close(rms_norm(wide[:, :40], weight, 1e-5), reference.rms_norm(wide[:, :40], weight, 1e-5))


@EVERY_DTYPE
def test_gated_activations_agree(dtype: torch.dtype) -> None:
    x = (3 * torch.randn(2, 2 * 1100)).to(dtype)
    gate, up = x.chunk(2, dim=-1)
    assert_close(silu_and_mul(x), reference.silu_and_mul(x))
    assert_close(gelu_and_mul(x), torch.nn.functional.gelu(gate, approximate="tanh") * up)
    assert silu_and_mul(x[:0]).shape == (0, 1100)


@EVERY_DTYPE
@pytest.mark.parametrize("head_dim", [64, 80])
def test_rotation_and_write_agree(head_dim: int, dtype: torch.dtype) -> None:
    qkv = torch.randn(4, 9, head_dim).to(dtype)
    angles = torch.randn(4, head_dim // 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    found, expected = torch.full((2, 2, 4, 8, 2, head_dim), float("nan"), dtype=dtype)
    slots = torch.tensor([0, 31, 7, -1])
    query = rotate_and_write(qkv, cos, sin, *found, slots)
    wanted = reference.rotate_and_write(qkv[:3], cos[:3], sin[:3], *expected, slots[:3])
    assert_close(query[:3], wanted)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance, equal_nan=True)


def test_part_of_a_head_turns_by_pairs_side_by_side() -> None:
    qkv, angles = torch.randn(2, 3, 20), torch.randn(2, 4)
    keys, values = torch.full((2, 1, 2, 1, 20), float("nan"))
    query = rotate_and_write(qkv, angles.cos(), angles.sin(), keys, values, torch.tensor([1, 0]), is_interleaved=True)
    pairs = torch.view_as_complex(qkv[:, :2, :8].reshape(2, 2, 4, 2))
    turned = torch.view_as_real(pairs * torch.exp(1j * angles)[:, None]).flatten(2)
    expected = torch.cat((turned, qkv[:, :2, 8:]), dim=-1)
    assert_close(query, expected[:, :1])
    assert_close(keys[0, [1, 0]], expected[:, 1:])
    torch.testing.assert_close(values[0, [1, 0]], qkv[:, 2:], atol=0, rtol=0)


def test_fp8_rounds_as_pytorch_does() -> None:
    every_exponent = torch.randn(60, 2, 64) * torch.logspace(-4, 3, 60)[:, None, None]
    qkv = torch.cat((torch.zeros(60, 1, 64), every_exponent), dim=1)
    qkv[0, 1, :6] = torch.tensor([448.0, -1000.0, 2**-9, 2**-10, 0.0, -(2**-6)])
    keys, values = torch.zeros(2, 60, 1, 1, 64).to(torch.float8_e4m3fn)
    cos, sin = torch.ones(60, 32), torch.zeros(60, 32)
    rotate_and_write(qkv, cos, sin, keys, values, torch.arange(60), value_scale=2.0)
    for cache, numbers in ((keys, qkv[:, 1]), (values, qkv[:, 2] / 2)):
        expected = numbers.clamp(-448, 448).to(torch.float8_e4m3fn)
        assert torch.equal(cache.view(60, 64).view(torch.uint8), expected.view(torch.uint8))


def test_blocks_are_copied_within_a_cache_and_out_of_it() -> None:
    cache = torch.randn(6, 4, 3, 100).half()
    before = cache.clone()
    copy_blocks(cache, cache, torch.tensor([[0, 5], [3, 1]]))
    assert torch.equal(cache[[5, 1]], before[[0, 3]])
    assert torch.equal(cache[[0, 2, 3, 4]], before[[0, 2, 3, 4]])
    staging = torch.zeros(2, 4, 3, 100).half()
    copy_blocks(cache, staging, torch.tensor([[2, 1]]))
    assert torch.equal(staging[1], cache[2])
    assert not staging[0].any()
