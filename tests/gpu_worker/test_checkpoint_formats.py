"""Each format's tensors, laid out by hand from its specification, are read to the very same numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpu_worker.checkpoint_formats import CheckpointFormat
from gpu_worker.kv_cache import CacheGeometry, KVCache
from gpu_worker.model_runner import ModelRunner
from gpu_worker.models.loading import load_model
from gpu_worker.ops_selection import choose_ops
from gpu_worker.precision import Precision
from gpu_worker.quantized_checkpoint import FORMATS, write_quantized
from gpu_worker.scoring import log_likelihoods
from gpu_worker.weights import open_weights
from kernels.arguments import BlockMatrix, IntegerMatrix, ScaledMatrix
from kernels.integer_matrices import in_blocks
from kernels.ops import CPU
from kernels.reference_linear import dequantize
from pagestream.cli import main
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError, ConfigurationError
from shared.gguf_file import GGUFTensor
from shared.model_config import ModelConfig
from tests.gpu_worker.families import FAMILIES, save

CPU_DEVICE = torch.device("cpu")
ROWS, COLUMNS, GROUP = 48, 128, 32


def words(numbers: Tensor, bits: int, order: list[int] | None = None) -> Tensor:
    """32-bit words of the last dimension's numbers, in plain Python: the first in the lowest bits."""
    per_word = 32 // bits
    order = order or list(range(per_word))
    rows = []
    for row in numbers.reshape(-1, numbers.shape[-1]).tolist():
        packed = []
        for start in range(0, len(row), per_word):
            word = sum(row[start + item] << (bits * place) for place, item in enumerate(order))
            packed.append(word - (1 << 32) if word >= 1 << 31 else word)
        rows.append(packed)
    return torch.tensor(rows, dtype=torch.int32).view(*numbers.shape[:-1], -1)


@dataclass
class Numbers:
    """Random quants [rows, columns], zeros and scales [rows, groups]; what they mean is `exact`."""

    quants: Tensor
    zeros: Tensor
    scales: Tensor
    groups: Tensor

    @property
    def exact(self) -> Tensor:
        return (self.quants - self.zeros[:, self.groups]).float() * self.scales.float()[:, self.groups]


def numbers(bits: int = 4, *, group: int = GROUP, zero: int | None = None) -> Numbers:
    torch.manual_seed(0)
    shape = ROWS, COLUMNS // group
    zeros = torch.randint(1, 16, shape) if zero is None else torch.full(shape, zero)
    scales = (torch.rand(shape) * 0.02 + 0.001).half()
    return Numbers(torch.randint(0, 2**bits, (ROWS, COLUMNS)), zeros, scales, torch.arange(COLUMNS) // group)


def awq(n: Numbers) -> dict[str, Tensor]:
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {
        "qweight": words(n.quants.T, 4, order),
        "qzeros": words(n.zeros.T, 4, order),
        "scales": n.scales.T.contiguous(),
    }


def gptq(n: Numbers, *, less: int, bits: int = 4) -> dict[str, Tensor]:
    return {
        "qweight": words(n.quants, bits).T.contiguous(),
        "qzeros": words((n.zeros - less).T, bits),
        "scales": n.scales.T.contiguous(),
        "g_idx": n.groups.int(),
    }


def packed(n: Numbers, *, has_zeros: bool) -> dict[str, Tensor]:
    zeros = {"weight_zero_point": words(n.zeros.T, 4).T.contiguous()} if has_zeros else {}
    shape = torch.tensor([ROWS, COLUMNS])
    return {"weight_packed": words(n.quants, 4), "weight_scale": n.scales, "weight_shape": shape} | zeros


def read(config: dict[str, object], tensors: dict[str, Tensor]) -> IntegerMatrix | ScaledMatrix | None:
    return CheckpointFormat.read(config).matrix(tensors.get)


SHUFFLED = torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(1))
V1, V2 = {"checkpoint_format": "gptq"}, {"checkpoint_format": "gptq_v2"}
AWQ: dict[str, object] = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
GPTQ: dict[str, object] = {"quant_method": "gptq", "bits": 4, "group_size": GROUP}
PACKED: dict[str, object] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}

INTEGERS: dict[str, tuple[dict[str, object], Callable[[], tuple[Numbers, dict[str, Tensor]]]]] = {
    "awq": (AWQ, lambda: ((n := numbers()), awq(n))),
    "awq, groups of 128": (AWQ, lambda: ((n := numbers(group=128)), awq(n))),
    "gptq v1": (GPTQ | V1, lambda: ((n := numbers()), gptq(n, less=1))),
    "gptq v2": (GPTQ | V2, lambda: ((n := numbers()), gptq(n, less=0))),
    "gptq v1, symmetric": (GPTQ | V1 | {"sym": True}, lambda: ((n := numbers(zero=8)), gptq(n, less=1))),
    "gptq v2 that says v1": (GPTQ | V1 | {"sym": True}, lambda: ((n := numbers(zero=8)), gptq(n, less=0))),
    "gptq v1 that says v2": (GPTQ | V2 | {"sym": True}, lambda: ((n := numbers(zero=8)), gptq(n, less=1))),
    "gptq, 8 bits": (GPTQ | {"bits": 8}, lambda: ((n := numbers(8, zero=128)), gptq(n, less=1, bits=8))),
    "packed": (PACKED, lambda: ((n := numbers()), packed(n, has_zeros=True))),
    "packed, symmetric": (PACKED, lambda: ((n := numbers(zero=8)), packed(n, has_zeros=False))),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_read_to_the_same_numbers_and_stay_packed(name: str) -> None:
    config, make = INTEGERS[name]
    expected, tensors = make()
    found = read(config, tensors)
    assert isinstance(found, IntegerMatrix)
    assert torch.equal(dequantize(found), expected.exact)
    blocks = in_blocks(found)
    assert blocks is not None
    assert blocks.format == ("Q8_0" if "8 bits" in name else "Q4_Z")
    assert torch.equal(dequantize(blocks), expected.exact)


def test_columns_in_the_order_of_their_activations_are_read_but_not_packed() -> None:
    n = numbers()
    n.groups = n.groups[SHUFFLED]
    found = read(GPTQ | {"desc_act": True}, gptq(n, less=1))
    assert isinstance(found, IntegerMatrix)
    assert torch.equal(dequantize(found), n.exact)
    assert in_blocks(found) is None


@pytest.mark.parametrize("is_by_row", [False, True])
def test_signed_bytes_are_read(is_by_row: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-128, 128, (ROWS, COLUMNS), dtype=torch.int8)
    scales = torch.rand(ROWS if is_by_row else 1, 1).half().bfloat16()
    scales = scales if is_by_row else scales[0]
    found = read({"quant_method": "compressed-tensors"}, {"weight": weight, "weight_scale": scales})
    assert isinstance(found, IntegerMatrix)
    assert torch.equal(dequantize(found), weight.float() * scales.float())
    assert torch.equal(dequantize(in_blocks(found) or found.quants), weight.float() * scales.float())


@pytest.mark.parametrize("rows", [300, 128, 40])
def test_fp8_is_read_by_tensor_row_and_block(rows: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(rows, 200).to(torch.float8_e4m3fn)
    whole, by_row = torch.rand(1) + 0.1, torch.rand(rows, 1) + 0.1
    blocks = torch.rand(-(-rows // 128), 2) + 0.1
    spread = torch.stack([blocks[row // 128, [column // 128 for column in range(200)]] for row in range(rows)])
    fp8: dict[str, object] = {"quant_method": "fp8"}
    for tensors, scale in (
        ({"weight_scale": whole}, whole),
        ({"weight_scale": by_row}, by_row),
        ({"weight_scale_inv": blocks}, spread),
    ):
        found = read(fp8, {"weight": weight, **tensors})
        assert isinstance(found, ScaledMatrix)
        assert torch.equal(dequantize(found), weight.float() * scale)


def test_scales_that_fp16_does_not_hold_are_not_packed() -> None:
    n = numbers()
    n.scales = torch.full_like(n.scales, 1e-7, dtype=torch.float32)
    found = read(AWQ, awq(n))
    assert isinstance(found, IntegerMatrix)
    assert in_blocks(found) is None
    assert torch.equal(dequantize(found), n.exact)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes'.*awq, gptq, fp8, compressed-tensors"),
        (AWQ | {"version": "gemv"}, "'gemv'"),
        (GPTQ | {"bits": 3}, "3 bits"),
        ({}, "quant_method is missing"),
    ],
)
def test_formats_that_are_not_read_are_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        CheckpointFormat.read(config)


def test_a_layer_that_lacks_a_tensor_is_named() -> None:
    with pytest.raises(CheckpointError, match="lacks scales"):
        read(AWQ, {name: tensor for name, tensor in awq(numbers()).items() if name != "scales"})


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("family", ["Qwen2", "Phi-4-mini", "Mixtral"])
def test_a_written_checkpoint_is_served_as_its_dequantized_model(family: str, to: str, tmp_path: Path) -> None:
    checkpoint, oracle = save(tmp_path / "exact", *FAMILIES[family])
    count = write_quantized(checkpoint, tmp_path / "made", to=to, group_size=32)
    assert count == {"Qwen2": 14, "Phi-4-mini": 8, "Mixtral": 2 * (4 + 4 * 3)}[family]
    made = Checkpoint("made", tmp_path / "made", "huggingface")
    config = ModelConfig.from_checkpoint(made)
    plain = open_weights(made, config, dtype=torch.float32, device=CPU_DEVICE)
    stored = open_weights(made, config, dtype=torch.float32, matrix_dtype="stored", device=CPU_DEVICE)
    exact = load_file(checkpoint.path / "model.safetensors")
    rounded = {name: plain.matrix(name) for name in exact if exact[name].dim() == 2}
    for name, weight in rounded.items():
        error = (weight - exact[name]).norm() / exact[name].norm()
        is_layer = ".layers." in name and not name.endswith("gate.weight")
        assert (0 < error < {"fp8": 0.03, "int8": 0.02}.get(to, 0.12)) if is_layer else error == 0, name
        kept = stored.matrix(name)
        assert torch.equal(dequantize(kept), weight), name
        assert isinstance(kept, BlockMatrix) == (is_layer and to != "fp8"), name
    quantized = log_probabilities(made)
    dense = tmp_path / "dense"
    oracle.save_pretrained(dense)
    replace_matrices(dense, rounded)
    torch.testing.assert_close(
        quantized, log_probabilities(Checkpoint("dense", dense, "huggingface")), atol=1e-3, rtol=0
    )


def replace_matrices(directory: Path, matrices: dict[str, Tensor]) -> None:
    path = directory / "model.safetensors"
    save_file(
        load_file(path) | {name: tensor.contiguous() for name, tensor in matrices.items()}, path, {"format": "pt"}
    )


def log_probabilities(checkpoint: Checkpoint) -> Tensor:
    """Of a text's tokens, by the best ops of this machine with the matrices as they are stored."""
    config = ModelConfig.from_checkpoint(checkpoint)
    ops = choose_ops(CPU_DEVICE, block_size=16, head_dim=config.head_dim)
    precision = Precision("stored" if ops is not CPU else torch.float32, torch.float32, torch.float32)
    with torch.inference_mode():
        model, config, ops = load_model(checkpoint, config, ops, precision, CPU_DEVICE, max_positions=64)
        cache = KVCache(config, CacheGeometry(16, 4, 64), ops, dtype=torch.float32, device=CPU_DEVICE)
        return log_likelihoods(model, cache, [(7 * i) % 101 for i in range(50)], block_size=16, device=CPU_DEVICE)


def test_the_command_writes_what_the_runner_serves(
    tmp_path: Path, load: Callable[..., ModelRunner], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = save(tmp_path / "exact", *FAMILIES["Qwen3"])
    target = tmp_path / "made"
    arguments = ["quantize", str(checkpoint.path), "--to", "awq", "-o", str(target), "--group-size", "32"]
    assert main(arguments) == 0
    assert "14 matrices as awq" in capsys.readouterr().out
    made = Checkpoint("made", target, "huggingface")
    assert load(made, quantization="awq").capabilities.quantization == "awq"
    with pytest.raises(ConfigurationError, match="--quantization gptq names"):
        load(made, quantization="gptq")
    assert main(arguments) == 1
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="quantized already"):
        write_quantized(made, tmp_path / "twice", to="gptq")
    with pytest.raises(ConfigurationError, match="--group-size 128 does not fit"):
        write_quantized(checkpoint, tmp_path / "unfit", to="gptq")


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K"])
def test_k_quants_of_gguf_are_dequantized(kind: str) -> None:
    """Their numbers are those of the `gguf` package; random bytes with sane scales."""
    kind_id = gguf.GGMLQuantizationType[kind]
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind_id]
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (4, 2, block_bytes), dtype=np.uint8)
    halves = np.array([0.01, 0.02], np.float16).view(np.uint8)
    place = {"Q4_K": 0, "Q5_K": 0, "Q6_K": -2, "Q3_K": -2, "Q2_K": -4}[kind]
    size = 2 if kind in ("Q6_K", "Q3_K") else 4
    blocks[..., place : (place + size) or None] = halves[:size]
    tensor = GGUFTensor("blk.0.ffn_up.weight", (4, 512), kind_id, blocks.reshape(-1))
    found = tensor.dequantize()
    assert np.isfinite(found).all()
    assert np.array_equal(found, gguf.quants.dequantize(blocks.reshape(4, -1), kind_id))
    assert found.std() > 0
