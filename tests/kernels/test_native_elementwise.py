import pytest
import torch

from kernels.ops import REFERENCE, Ops

TOKENS = [1, 7, 130]
SIZES = [576, 33, 8]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("size", SIZES)
def test_norms_agree(ops: Ops, num_tokens: int, size: int) -> None:
    x, residual, weight = torch.randn(num_tokens, size), torch.randn(num_tokens, size), torch.randn(size)
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x, weight, 1e-5))
    expected = REFERENCE.add_rms_norm(x, residual.clone(), weight, 1e-5)
    torch.testing.assert_close(ops.add_rms_norm(x, residual.clone(), weight, 1e-5), expected)


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("size", SIZES)
def test_silu_and_mul_agrees_over_the_whole_range(ops: Ops, num_tokens: int, size: int) -> None:
    x = torch.randn(num_tokens, 2 * size) * torch.tensor([0.01, 1.0, 30.0, 100.0]).repeat(2 * size)[: 2 * size]
    torch.testing.assert_close(ops.silu_and_mul(x), REFERENCE.silu_and_mul(x), rtol=1e-5, atol=1e-30)


def test_nan_is_not_hidden(ops: Ops) -> None:
    nan = torch.full((2, 64), float("nan"))
    assert ops.silu_and_mul(nan).isnan().all()
    assert ops.rms_norm(nan, torch.ones(64), 1e-5).isnan().all()


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rotation_and_write_agree(ops: Ops, num_tokens: int, dtype: torch.dtype) -> None:
    qkv, angles, slots = torch.randn(num_tokens, 9 + 3 + 3, 64), torch.randn(num_tokens, 32), torch.randperm(160)
    slots = slots[:num_tokens]
    own, plain = (
        [torch.full(shape, float("nan"), dtype=dtype) for shape in shapes(10, 16, 3, 64)]
        for shapes in (ops.cache_shapes, REFERENCE.cache_shapes)
    )
    found = ops.rotate_and_write(qkv, angles.cos(), angles.sin(), own[0], own[1], slots)
    expected = REFERENCE.rotate_and_write(qkv, angles.cos(), angles.sin(), plain[0], plain[1], slots)
    torch.testing.assert_close(found, expected)
    tolerance = {} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-3}
    torch.testing.assert_close(own[0].permute(0, 3, 1, 2), plain[0], equal_nan=True, **tolerance)
    torch.testing.assert_close(own[1].permute(0, 2, 1, 3), plain[1], equal_nan=True, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_numbers_are_rounded_as_pytorch_rounds(ops: Ops, dtype: torch.dtype) -> None:
    special = torch.tensor([0.0, -0.0, 65504.0, 65519.9, 65520.0, 1e30, -1e30, 6e-8, 2.9e-8, 1e-40, 1 + 2**-11, 3e-5])
    numbers = torch.cat((special, torch.randn(4000), torch.randn(4000) * 1e-5, torch.randn(180) * 1e4)).view(64, -1)
    rows = numbers[:, :128]
    keys, values = (torch.zeros(shape, dtype=dtype) for shape in ops.cache_shapes(4, 16, 1, 128))
    qkv = torch.stack((rows, rows, rows), dim=1)
    ops.rotate_and_write(qkv, torch.ones(64, 64), torch.zeros(64, 64), keys, values, torch.arange(64))
    assert torch.equal(values.view(64, 128), rows.to(dtype))
    assert torch.equal(keys.transpose(-1, -2).reshape(64, 128), rows.to(dtype))


def test_int8_is_rounded_to_nearest_even_with_one_scale_a_row(ops: Ops) -> None:
    rows = torch.cat((torch.randn(60, 128), torch.arange(128.0)[None] / 2, torch.zeros(1, 128), torch.randn(2, 128)))
    rows[60, 0], rows[62, 5], rows[63, 7] = -127.0, float("nan"), float("inf")
    keys, values = (torch.zeros(shape, dtype=torch.int8) for shape in ops.cache_shapes(4, 16, 1, 128 + 4))
    ops.rotate_and_write(
        torch.stack((rows,) * 3, dim=1), torch.ones(64, 64), torch.zeros(64, 64), keys, values, torch.arange(64)
    )
    scales = rows.abs().amax(-1, keepdim=True) / 127
    quants = (rows[:61] / scales[:61]).round().to(torch.int8)
    assert quants[60, :6].tolist() == [-127, 0, 1, 2, 2, 2]
    by_values = values.view(64, 132)
    by_keys = keys.view(4, 132, 16)
    key_scales = by_keys[:, 128:].reshape(4, 64).contiguous().view(torch.float32).flatten()
    for found, found_scales in (
        (by_values[:, :128], by_values[:, 128:].contiguous().view(torch.float32).flatten()),
        (by_keys[:, :128].transpose(-1, -2).reshape(64, 128), key_scales),
    ):
        assert torch.equal(found[:61], quants)
        assert not found[61].any()
        assert torch.equal(found_scales[:62], scales[:62, 0])
        assert found_scales[62:].isnan().all()


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("size", SIZES)
def test_gelu_sums_and_products_agree(ops: Ops, num_tokens: int, size: int) -> None:
    x = torch.randn(num_tokens, 2 * size) * torch.tensor([0.01, 1.0, 30.0, 100.0]).repeat(2 * size)[: 2 * size]
    exact = REFERENCE.gelu_and_mul(x.double())  # in fp32 PyTorch's 1 + tanh loses what is small
    torch.testing.assert_close(ops.gelu_and_mul(x).double(), exact, rtol=1e-5, atol=1e-6)
    other = torch.randn_like(x)
    assert torch.equal(ops.add(x, other.clone()), REFERENCE.add(x, other.clone()))
    assert torch.equal(ops.scale(x.clone(), 0.3), REFERENCE.scale(x.clone(), 0.3))


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("sizes", [(64, 64), (9 * 64, 3 * 64)], ids=["each head", "all heads"])
def test_norms_of_heads_agree(ops: Ops, num_tokens: int, sizes: tuple[int, int]) -> None:
    qkv, query_weight, key_weight = torch.randn(num_tokens, 15, 64), torch.randn(sizes[0]), torch.randn(sizes[1])
    expected = REFERENCE.norm_heads(qkv.clone(), query_weight, key_weight, 1e-5, 3)
    torch.testing.assert_close(ops.norm_heads(qkv.clone(), query_weight, key_weight, 1e-5, 3), expected)
