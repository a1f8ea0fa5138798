import gguf
import pytest
import torch

from kernels import reference, reference_linear
from kernels.arguments import BlockMatrix
from kernels.ops import CPU, REFERENCE, Ops, select

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
    torch.testing.assert_close(CPU.pack_linear([weight], bias)(x).double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_are_not_packed_but_computed(dtype: torch.dtype) -> None:
    weight, x = torch.randn(24, 16, dtype=dtype), torch.randn(3, 16, dtype=dtype)
    found = CPU.pack_linear([weight], None)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), x.float() @ weight.float().T, atol=5e-2, rtol=2e-2)


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_rms_norms_agree(num_tokens: int) -> None:
    x, residual, weight = torch.randn(num_tokens, 576), torch.randn(num_tokens, 576), torch.randn(576)
    torch.testing.assert_close(CPU.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x, weight, 1e-5))
    expected = REFERENCE.add_rms_norm(x, residual.clone(), weight, 1e-5)
    torch.testing.assert_close(CPU.add_rms_norm(x, residual.clone(), weight, 1e-5), expected)


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_silu_and_mul_agree(num_tokens: int) -> None:
    x = torch.randn(num_tokens, 2 * 100)
    torch.testing.assert_close(CPU.silu_and_mul(x), REFERENCE.silu_and_mul(x))


@pytest.mark.parametrize("ops", [REFERENCE, CPU], ids=["reference", "cpu"])
def test_queries_and_keys_turn_and_keep_their_length(ops: Ops) -> None:
    caches = torch.full((2, 4, 5, 3, 64), float("nan"))
    qkv, angles, slots = torch.randn(3, 12 + 3, 64), torch.randn(3, 32), torch.tensor([0, 19, 7])
    query = ops.rotate_and_write(qkv, angles.cos(), angles.sin(), caches[0], caches[1], slots)
    key = caches[0].flatten(0, 1)[slots]
    turned = torch.cat((query, key), dim=1)
    torch.testing.assert_close(turned, reference.rotate(qkv[:, :12], angles.cos(), angles.sin()))
    torch.testing.assert_close(turned.norm(dim=-1), qkv[:, :12].norm(dim=-1))


@pytest.mark.parametrize("ops", [REFERENCE, CPU], ids=["reference", "cpu"])
def test_writing_keys_and_values_touches_their_slots_alone(ops: Ops) -> None:
    keys, values = torch.full((2, 4, 5, 3, 8), float("nan"))
    qkv, slots = torch.randn(3, 9, 8), torch.tensor([0, 19, 7])
    ops.rotate_and_write(qkv, torch.ones(3, 4), torch.zeros(3, 4), keys, values, slots)
    for cache, written in ((keys, qkv[:, 3:6]), (values, qkv[:, 6:])):
        torch.testing.assert_close(cache.flatten(0, 1)[slots], written, atol=0, rtol=0)
        assert int(cache.isfinite().sum()) == written.numel()


@pytest.mark.parametrize("ops", [REFERENCE, CPU], ids=["reference", "cpu"])
def test_an_embedding_is_its_own_head(ops: Ops) -> None:
    matrix, x = torch.randn(20, 8), torch.randn(3, 8)
    embedding = ops.pack_embedding(matrix)
    torch.testing.assert_close(embedding(torch.tensor([7, 0, 7])), matrix[[7, 0, 7]], atol=0, rtol=0)
    torch.testing.assert_close(embedding.head()(x), x @ matrix.T)


@pytest.mark.parametrize("ops", [REFERENCE, CPU], ids=["reference", "cpu"])
@pytest.mark.parametrize("format_name", ["Q4_0", "Q4_1", "Q8_0"])
def test_blocks_are_the_numbers_of_the_gguf_package(ops: Ops, format_name: str) -> None:
    kind = gguf.GGMLQuantizationType[format_name]
    numbers = torch.randn(6, 64).numpy()
    packed = gguf.quants.quantize(numbers, kind)
    matrix = BlockMatrix(format_name, torch.from_numpy(packed).view(6, 2, -1))
    assert matrix.shape == (6, 64)
    expected = torch.from_numpy(gguf.quants.dequantize(packed, kind))
    torch.testing.assert_close(reference_linear.dequantize(matrix), expected, atol=0, rtol=0)
    torch.testing.assert_close(ops.pack_linear([matrix], None)(torch.eye(64)), expected.T)
