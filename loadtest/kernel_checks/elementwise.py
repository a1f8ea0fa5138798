"""Checks of norms, gated activations, rotation with the write to the cache, and block copies."""

from collections.abc import Callable, Iterator
from typing import Final

import torch

from kernels import reference
from kernels.triton.activations import gelu_and_mul, silu_and_mul
from kernels.triton.block_copy import copy_blocks
from kernels.triton.cache_write import rotate_and_write
from kernels.triton.norms import add_rms_norm, norm_heads, rms_norm
from loadtest.kernel_checks.check import TOLERANCE, Comparison, KernelCheck

Compare = Callable[[torch.device], Iterator[Comparison]]

_NORM: Final = ("rms_norm_kernel",)
_GATE: Final = ("gate_and_mul_kernel",)
_WRITE: Final = ("rotate_and_write_kernel",)
_COPY: Final = ("copy_blocks_kernel",)


def _norms(shape: tuple[int, int], dtype: torch.dtype) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        x, residual, weight = (torch.randn(size).to(dtype) for size in (shape, shape, shape[1:]))
        on_device = x.to(device), residual.to(device), weight.to(device)
        alone = rms_norm(on_device[0], on_device[2], 1e-5)
        yield Comparison(alone, reference.rms_norm(x, weight, 1e-5), TOLERANCE[dtype])
        expected = reference.add_rms_norm(x, residual, weight, 1e-5)
        for found, wanted in zip(add_rms_norm(*on_device, 1e-5), expected, strict=True):
            yield Comparison(found, wanted, TOLERANCE[dtype])

    return compare


def _rows_apart(device: torch.device) -> Iterator[Comparison]:
    wide, weight = torch.randn(3, 100), torch.randn(40)
    found = rms_norm(wide.to(device)[:, :40], weight.to(device), 1e-5)
    yield Comparison(found, reference.rms_norm(wide[:, :40], weight, 1e-5), 1e-5)


def _norms_of_heads(device: torch.device) -> Iterator[Comparison]:
    qkv = torch.randn(3, 8, 20)
    for sizes in ((20, 20), (4 * 20, 2 * 20)):
        query, key = (torch.randn(size) for size in sizes)
        found = norm_heads(qkv.to(device), query.to(device), key.to(device), 1e-5, 2)
        yield Comparison(found, reference.norm_heads(qkv, query, key, 1e-5, 2), 1e-5)


def _activations(dtype: torch.dtype) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        x = (3 * torch.randn(2, 2 * 1100)).to(dtype)
        for ours, plain in ((silu_and_mul, reference.silu_and_mul), (gelu_and_mul, reference.gelu_and_mul)):
            yield Comparison(ours(x.to(device)), plain(x), TOLERANCE[dtype])
        yield Comparison(silu_and_mul(x[:0].to(device)), x[:0, :1100])

    return compare


def _rotation(head_dim: int, dtype: torch.dtype) -> Compare:
    def compare(device: torch.device) -> Iterator[Comparison]:
        qkv, angles = torch.randn(4, 9, head_dim).to(dtype), torch.randn(4, head_dim // 2)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        expected = torch.full((2, 4, 8, 2, head_dim), float("nan"), dtype=dtype)
        caches = expected.clone().to(device)
        slots = torch.tensor([0, 31, 7, -1])
        turn = cos.to(device), sin.to(device)
        found = rotate_and_write(qkv.to(device), *turn, caches[0], caches[1], slots.to(device))
        wanted = reference.rotate_and_write(qkv[:3], cos[:3], sin[:3], expected[0], expected[1], slots[:3])
        yield Comparison(found[:3], wanted, TOLERANCE[dtype])
        yield Comparison(caches, expected, TOLERANCE[dtype])

    return compare


def _pairs_side_by_side(device: torch.device) -> Iterator[Comparison]:
    qkv, angles = torch.randn(2, 3, 20), torch.randn(2, 4)
    keys, values = torch.full((2, 1, 2, 1, 20), float("nan")).to(device)
    turn, slots = (angles.cos().to(device), angles.sin().to(device)), torch.tensor([1, 0], device=device)
    query = rotate_and_write(qkv.to(device), *turn, keys, values, slots, is_interleaved=True)
    pairs = torch.view_as_complex(qkv[:, :2, :8].reshape(2, 2, 4, 2))
    turned = torch.view_as_real(pairs * torch.exp(1j * angles)[:, None]).flatten(2)
    expected = torch.cat((turned, qkv[:, :2, 8:]), dim=-1)
    yield Comparison(query, expected[:, :1], 1e-5)
    yield Comparison(keys[0, [1, 0]], expected[:, 1:], 1e-5)
    yield Comparison(values[0, [1, 0]], qkv[:, 2:])


def _fp8(device: torch.device) -> Iterator[Comparison]:
    every_exponent = torch.randn(60, 2, 64) * torch.logspace(-4, 3, 60)[:, None, None]
    qkv = torch.cat((torch.zeros(60, 1, 64), every_exponent), dim=1)
    qkv[0, 1, :6] = torch.tensor([448.0, -1000.0, 2**-9, 2**-10, 0.0, -(2**-6)])
    keys, values = torch.zeros(2, 60, 1, 1, 64).to(torch.float8_e4m3fn).to(device)
    cos, sin = torch.ones(60, 32, device=device), torch.zeros(60, 32, device=device)
    slots = torch.arange(60, device=device)
    rotate_and_write(qkv.to(device), cos, sin, keys, values, slots, value_scale=2.0)
    for cache, numbers in ((keys, qkv[:, 1]), (values, qkv[:, 2] / 2)):
        expected = numbers.clamp(-448, 448).to(torch.float8_e4m3fn)
        yield Comparison(cache.view(60, 64).view(torch.uint8), expected.view(torch.uint8))


def _copies(device: torch.device) -> Iterator[Comparison]:
    before = torch.randn(6, 4, 3, 100).half()
    cache, expected = before.to(device).clone(), before.clone()
    copy_blocks(cache, cache, torch.tensor([[0, 5], [3, 1]], device=device))
    expected[[5, 1]] = before[[0, 3]]
    yield Comparison(cache, expected)
    staging = torch.zeros(2, 4, 3, 100).half().to(device)
    copy_blocks(cache, staging, torch.tensor([[2, 1]], device=device))
    yield Comparison(staging, torch.stack((torch.zeros_like(before[0]), before[2])))


def _checks() -> Iterator[KernelCheck]:
    for dtype in TOLERANCE:
        name = str(dtype).removeprefix("torch.")
        is_first = dtype == torch.float32
        for shape in ((0, 64), (3, 576), (2, 33)):
            is_quick = is_first and shape == (2, 33)
            yield KernelCheck(f"norms of {shape}, {name}", _NORM, _norms(shape, dtype), is_quick=is_quick)
        yield KernelCheck(f"activations, {name}", _GATE, _activations(dtype), is_quick=is_first)
        for head_dim in (64, 80):
            is_quick = is_first and head_dim == 80  # noqa: PLR2004
            check = _rotation(head_dim, dtype)
            yield KernelCheck(f"rotation, head_dim {head_dim}, {name}", _WRITE, check, is_quick=is_quick)
    yield KernelCheck("norms of rows that lie apart", _NORM, _rows_apart)
    yield KernelCheck("norms of heads", _NORM, _norms_of_heads)
    yield KernelCheck("rotation of a part, pairs side by side", _WRITE, _pairs_side_by_side)
    yield KernelCheck("fp8 rounded as PyTorch does", _WRITE, _fp8)
    yield KernelCheck("copies within a cache and out of it", _COPY, _copies, is_quick=True)


ELEMENTWISE: Final = tuple(_checks())
