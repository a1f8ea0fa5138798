"""What each mode costs in quality on the demo model, and that the measure measures."""

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from gateway.tokenizers.tokenizer_loading import load_tokenizer
from kernels.native_build import NativeBuildError, Toolchain
from loadtest.perplexity import MODES, WINDOW, load, mean_negative_log_likelihood
from shared.checkpoint import Checkpoint
from shared.model_config import ModelConfig

TEXT = Path(__file__).parents[1] / "data" / "american-documents.txt"
ALLOWED = {
    "--quantization int8-weight-only": 0.01,
    "--quantization int8": 0.03,
}
"""By which perplexity may rise above that of exact numbers. `make bench-perplexity` prints every mode's."""

NUM_TOKENS = 3 * WINDOW
"""Half of the text; `make bench-perplexity` reads all of it."""

pytestmark = pytest.mark.model


@pytest.fixture(scope="module", autouse=True)
def _needs_native() -> None:
    try:
        Toolchain.find()
    except NativeBuildError as error:
        pytest.skip(f"PyTorch's ops know one dtype: {error}")


@pytest.fixture(scope="module")
def tokens(demo: Checkpoint) -> list[int]:
    text = TEXT.read_text(encoding="utf-8")
    return load_tokenizer(demo, ModelConfig.from_checkpoint(demo)).encode(text)[:NUM_TOKENS]


@pytest.fixture(scope="module")
def exact(demo: Checkpoint, tokens: list[int]) -> float:
    return mean_negative_log_likelihood(load(demo, MODES["exact"]), tokens)


def test_it_is_what_transformers_computes(demo: Checkpoint, demo_oracle: LlamaForCausalLM, tokens: list[int]) -> None:
    windows = [tokens[:100], tokens[100:200], tokens[200:230]]
    expected = 0.0
    with torch.inference_mode():
        for window in windows:
            scores = demo_oracle(torch.tensor([window])).logits[0, :-1].log_softmax(-1)
            expected -= float(scores.gather(1, torch.tensor(window[1:])[:, None]).sum()) / (230 - 3)
    found = mean_negative_log_likelihood(load(demo, MODES["exact"]), tokens[:230], window=100)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_mode_stays_near_exact_numbers(name: str, demo: Checkpoint, tokens: list[int], exact: float) -> None:
    found = mean_negative_log_likelihood(load(demo, MODES[name]), tokens)
    print(f"{name}: perplexity {math.exp(found):.4f}, exact {math.exp(exact):.4f}, {math.expm1(found - exact):+.3%}")
    assert 0 < abs(math.expm1(found - exact)) < ALLOWED[name]
