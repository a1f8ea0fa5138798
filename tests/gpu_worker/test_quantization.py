"""Rounded weights on tiny models; what they cost in quality is in tests/loadtest/test_perplexity.py."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from gpu_worker.model_runner import ModelRunner
from gpu_worker.quantization import Quantization, QuantizedWeights
from gpu_worker.weights import open_weights
from kernels.native_build import NativeBuildError, Toolchain
from kernels.reference_linear import dequantize
from shared.checkpoint import Checkpoint
from shared.errors import ConfigurationError
from shared.model_config import ModelConfig
from tests.gpu_worker.transcript import Transcript, admit, compute


@pytest.fixture(autouse=True)
def _needs_native() -> None:
    try:
        Toolchain.find()
    except NativeBuildError as error:
        pytest.skip(f"PyTorch's ops have no int8: {error}")


@pytest.mark.parametrize("int8_has_blocks", [False, True])
@pytest.mark.parametrize("quantization", list(Quantization))
def test_matrices_are_rounded_and_nothing_else(
    quantization: Quantization, int8_has_blocks: bool, save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    checkpoint, oracle = save_tiny(attention_bias=True)
    exact = open_weights(
        checkpoint, ModelConfig.from_checkpoint(checkpoint), dtype=torch.float32, device=torch.device("cpu")
    )
    rounded = QuantizedWeights(exact, quantization, int8_has_blocks=int8_has_blocks)
    for name, expected in oracle.state_dict().items():
        if name.endswith("bias") or "norm" in name:
            assert torch.equal(rounded.get(name), expected)
        else:
            moved = dequantize(rounded.matrix(name)) - expected
            assert 0 < float(moved.norm()) < float(expected.norm()) / 100


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("quantization", list(Quantization))
def test_a_model_runs_with_its_head_tied_or_not(
    quantization: Quantization,
    is_tied: bool,
    load: Callable[..., ModelRunner],
    save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]],
) -> None:
    checkpoint, _ = save_tiny(tie_word_embeddings=is_tied)
    transcript = Transcript(load(checkpoint, quantization=quantization))
    transcript.run(compute({0: 9}, admitted=[admit(0, range(9), [0, 1])]))
    transcript.decode([0], 5)
    assert len(transcript.tokens[0]) == 6


def test_a_matrix_that_cannot_be_cut_is_named(
    load: Callable[..., ModelRunner], save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    checkpoint, _ = save_tiny(intermediate_size=90)
    load(checkpoint, quantization="int8")
    with pytest.raises(ConfigurationError, match=r"int8-weight-only .*mlp\.down_proj\.weight has 90 columns"):
        load(checkpoint, quantization="int8-weight-only")
