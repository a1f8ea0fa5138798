import pytest
import torch

from kernels.ops import CPU, REFERENCE, select

TOKENS = [0, 1, 7, 130]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_device_decides_which_ops_run() -> None:
    assert select(torch.device("cpu")) is CPU
    assert select(torch.device("meta")) is REFERENCE


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("shape", [(192, 576), (17, 33), (1, 8)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_packed_linear_computes_in_fp32(num_tokens: int, shape: tuple[int, int], biased: bool) -> None:
    weight, bias, x = torch.randn(shape), torch.randn(shape[0]) if biased else None, torch.randn(num_tokens, shape[1])
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(CPU.pack_linear(weight, bias)(x).double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_are_not_packed_but_computed(dtype: torch.dtype) -> None:
    weight, x = torch.randn(24, 16, dtype=dtype), torch.randn(3, 16, dtype=dtype)
    found = CPU.pack_linear(weight, None)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), x.float() @ weight.float().T, atol=5e-2, rtol=2e-2)


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_rms_norms_agree(num_tokens: int) -> None:
    x, residual, weight = torch.randn(num_tokens, 576), torch.randn(num_tokens, 576), torch.randn(576)
    torch.testing.assert_close(CPU.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x, weight, 1e-5))
    expected = REFERENCE.add_rms_norm(x, residual.clone(), weight, 1e-5)
    torch.testing.assert_close(CPU.add_rms_norm(x, residual.clone(), weight, 1e-5), expected)


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_rotations_agree_on_a_slice_of_a_wider_tensor(num_tokens: int) -> None:
    x = torch.randn(num_tokens, 15, 64)[:, :12]
    angles = torch.randn(num_tokens, 32)
    cos, sin = angles.cos(), angles.sin()
    rotated = CPU.rotate(x, cos, sin)
    torch.testing.assert_close(rotated, REFERENCE.rotate(x, cos, sin))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_silu_and_mul_agree(num_tokens: int) -> None:
    x = torch.randn(num_tokens, 2 * 100)
    torch.testing.assert_close(CPU.silu_and_mul(x), REFERENCE.silu_and_mul(x))


def test_writing_keys_and_values_touches_their_slots_alone() -> None:
    caches = [torch.full((4, 5, 3, 8), float("nan")) for _ in range(4)]
    wide = torch.randn(3, 12, 8)
    key, value, slots = wide[:, 2:5], wide[:, 5:8], torch.tensor([0, 19, 7])
    REFERENCE.write_kv(key, value, caches[0], caches[1], slots)
    CPU.write_kv(key, value, caches[2], caches[3], slots)
    for found, expected in zip(caches[2:], caches[:2], strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True)
    torch.testing.assert_close(caches[2].flatten(0, 1)[slots], key)
    assert int(caches[2].isfinite().sum()) == key.numel()
