"""Oracle: transformers' LlamaForCausalLM on the same weights, token by token."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from gpu_worker.batch_state import BatchState
from gpu_worker.kv_cache import CacheGeometry, KVCache
from gpu_worker.models.decoder import Decoder
from gpu_worker.quantized_checkpoint import write_quantized
from gpu_worker.step_input import StepInput
from gpu_worker.weights import open_weights
from kernels.arguments import IntegerMatrix, Matrix, ScaledMatrix
from kernels.ops import CPU, REFERENCE, Ops
from kernels.reference_linear import dequantize
from kernels.triton.ops import TRITON
from shared.checkpoint import Checkpoint
from shared.model_config import ModelConfig
from tests.gpu_worker.transcript import admit, compute

CPU_DEVICE = torch.device("cpu")
BY_MAKE = pytest.mark.skipif(not os.environ.get("KERNEL_TESTS"), reason="half a minute: make test-kernels")
PROMPT = [(7 * place) % 101 for place in range(37)]
FORCED = [(11 * place + 3) % 101 for place in range(50)]

MODELS: dict[str, dict[str, object]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "GQA 4/1": {"num_key_value_heads": 1},
    "GQA 7/1": {"num_attention_heads": 7, "num_key_value_heads": 1, "hidden_size": 56},
    "own head_dim": {"head_dim": 32},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 32,
        },
        "max_position_embeddings": 128,
    },
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "rope_theta": 5e5,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "max_position_embeddings": 256,
    },
}


def ours(
    checkpoint: Checkpoint,
    *,
    ops: Ops = CPU,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
    chunk: int = 1000,
) -> Iterator[torch.Tensor]:
    """The logits after the prompt and after each forced token, on blocks in reverse order."""
    config = ModelConfig.from_checkpoint(checkpoint)
    weights = open_weights(checkpoint, config, dtype=dtype, device=CPU_DEVICE, keeps=ops.keeps)
    model = Decoder(config, weights, ops, max_positions=128)
    geometry = CacheGeometry(block_size=8, num_blocks=16, max_model_len=128)
    cache = KVCache(config, geometry, ops, dtype=cache_dtype or dtype, device=CPU_DEVICE)
    state = BatchState(
        max_num_seqs=2,
        max_model_len=128,
        max_num_batched_tokens=128,
        block_size=8,
        num_blocks=16,
        vocab_size=config.vocab_size,
    )
    admitted = [admit(1, PROMPT, list(range(15, -1, -1)))]
    for start in range(0, len(PROMPT), chunk):
        work = state.apply(compute({1: min(chunk, len(PROMPT) - start)}, admitted=admitted))
        admitted = []
        logits = model.forward(StepInput.build(state, work), cache)
        state.advance(work)
    yield logits[0]
    for token in FORCED:
        state.commit(1, token)
        work = state.apply(compute({1: 1}))
        yield model.forward(StepInput.build(state, work), cache)[0]
        state.advance(work)


def theirs(oracle: LlamaForCausalLM) -> Iterator[torch.Tensor]:
    tokens, past = PROMPT, None
    for token in [*FORCED, 0]:
        output = oracle(torch.tensor([tokens]), past_key_values=past, use_cache=True)
        past, tokens = output.past_key_values, [token]
        yield output.logits[0, -1]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_logits_are_those_of_transformers(
    model: dict[str, object], save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    checkpoint, oracle = save_tiny(**model)
    with torch.inference_mode():
        for found, expected in zip(ours(checkpoint), theirs(oracle), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ops", [REFERENCE, CPU], ids=["reference", "cpu"])
@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_logits_do_not_depend_on_chunks_or_ops(
    ops: Ops, chunk: int, save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    checkpoint, oracle = save_tiny()
    with torch.inference_mode():
        for found, expected in zip(ours(checkpoint, ops=ops, chunk=chunk), theirs(oracle), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_kernels_in_triton_compute_the_model(
    save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]],
) -> None:
    checkpoint, oracle = save_tiny()
    with torch.inference_mode():
        steps = zip(ours(checkpoint, ops=TRITON, chunk=16), theirs(oracle), strict=True)
        for found, expected in islice(steps, 4):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


class RoundedInputs:
    """Beside the kernels: the same rounding of activations in plain operators, times the dequantized weights."""

    def __init__(self, matrices: Sequence[Matrix], bias: torch.Tensor | None) -> None:
        self._parts = [(matrix, dequantize(matrix)) for matrix in matrices]
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self._rounded(x, matrix) @ numbers.T for matrix, numbers in self._parts], dim=-1)
        return y if self._bias is None else y + self._bias

    def _rounded(self, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        if isinstance(matrix, ScaledMatrix):
            parts = x.split(matrix.block[1], dim=-1)
            return torch.cat([self._rounded_part(part, 448.0, is_fp8=True) for part in parts], dim=-1)
        if isinstance(matrix, IntegerMatrix) and matrix.rounds_activations:
            return self._rounded_part(x, 127.0, is_fp8=False)
        return x

    def _rounded_part(self, x: torch.Tensor, most: float, *, is_fp8: bool) -> torch.Tensor:
        scale = x.abs().amax(dim=-1, keepdim=True) / most
        steps = x / scale
        return (steps.to(torch.float8_e4m3fn).float() if is_fp8 else steps.round()) * scale


@pytest.mark.parametrize("to", ["awq", *(pytest.param(to, marks=BY_MAKE) for to in ("gptq", "int8", "fp8"))])
def test_the_kernels_in_triton_multiply_what_a_quantized_checkpoint_holds(
    to: str, save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]], tmp_path: Path
) -> None:
    checkpoint, _ = save_tiny()
    write_quantized(checkpoint, tmp_path, to=to, group_size=32)
    made = Checkpoint("made", tmp_path, "huggingface")
    plain = replace(REFERENCE, keeps=TRITON.keeps, pack_linear=RoundedInputs)
    with torch.inference_mode():
        found, expected = next(ours(made, ops=TRITON)), next(ours(made, ops=plain))
    assert (found - expected).norm() < 1e-4 * expected.norm()


def write_in_fp8(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """As the reference, and then only what fp8 holds is left in the cache."""
    queries = REFERENCE.rotate_and_write(qkv, cos, sin, key_cache, value_cache, slots)
    for cache in (key_cache, value_cache):
        cache.copy_(cache.to(torch.float8_e4m3fn))
    return queries


@BY_MAKE
def test_the_kernels_in_triton_keep_a_cache_in_fp8(
    save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]],
) -> None:
    checkpoint, _ = save_tiny()
    plain = replace(REFERENCE, rotate_and_write=write_in_fp8)
    with torch.inference_mode():
        steps = zip(
            ours(checkpoint, ops=TRITON, cache_dtype=torch.float8_e4m3fn), ours(checkpoint, ops=plain), strict=True
        )
        for found, expected in islice(steps, 2):
            assert (found - expected).norm() < 1e-4 * expected.norm()


def test_bfloat16_is_close(save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]) -> None:
    checkpoint, oracle = save_tiny()
    with torch.inference_mode():
        for found, expected in zip(ours(checkpoint, dtype=torch.bfloat16), theirs(oracle), strict=True):
            assert found.dtype == torch.float32
            assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
