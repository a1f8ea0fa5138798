"""`make bench-perplexity`: what rounding weights, activations, keys and values costs in quality, on a text."""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gateway.tokenizers.tokenizer_loading import load_tokenizer
from gpu_worker.model_runner import ModelRunner
from shared.checkpoint import Checkpoint, resolve
from shared.model_config import ModelConfig

WINDOW: Final = 512
_CACHE_BYTES: Final = 1 << 30


class Mode(NamedTuple):
    """Settings of `ModelRunner.load` that change numbers."""

    kv_cache_dtype: str = "auto"
    quantization: str | None = None


MODES: Final = {
    "exact": Mode(),
    "--kv-cache-dtype fp16": Mode(kv_cache_dtype="fp16"),
    "--kv-cache-dtype bf16": Mode(kv_cache_dtype="bf16"),
    "--quantization int8-weight-only": Mode(quantization="int8-weight-only"),
    "--quantization int8": Mode(quantization="int8"),
}
"""By the flags that ask for them."""


def load(checkpoint: Checkpoint, mode: Mode) -> ModelRunner:
    """A model on the CPU with room for one window."""
    return ModelRunner.load(
        checkpoint,
        dtype="auto",
        kv_cache_dtype=mode.kv_cache_dtype,
        quantization=mode.quantization,
        block_size=16,
        kv_cache_memory_bytes=_CACHE_BYTES,
        gpu_memory_utilization=1.0,
        max_model_len=WINDOW,
        max_num_seqs=1,
        max_num_batched_tokens=WINDOW,
        enable_prefix_caching=False,
        device="cpu",
        model_name=checkpoint.name,
    )


def mean_negative_log_likelihood(runner: ModelRunner, tokens: Sequence[int], *, window: int = WINDOW) -> float:
    """How badly a model predicts a text, in nats a token; perplexity is its exponential.

    Args:
        runner: With `max_model_len` of a window at least. It forgets its rows.
        tokens: Of the text, cut into windows that know nothing of each other.
        window: Tokens of each, the last may be shorter. The first token of each is given.
    """
    total, count = 0.0, 0
    for first in range(0, len(tokens) - 1, window):
        found = runner.log_likelihoods(tokens[first : first + window])
        total -= float(found.double().sum())
        count += len(found)
    return total / count


def main() -> None:
    """Print each mode's perplexity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    checkpoint = resolve(arguments.model)
    tokenizer = load_tokenizer(checkpoint, ModelConfig.from_checkpoint(checkpoint))
    tokens = tokenizer.encode(arguments.text.read_text(encoding="utf-8"))
    print(f"{arguments.text.name}: {len(tokens)} tokens in windows of {WINDOW}")
    exact = 0.0
    for name, mode in MODES.items():
        found = mean_negative_log_likelihood(load(checkpoint, mode), tokens)
        exact = exact or found
        print(f"  {name:32} perplexity {math.exp(found):8.4f}  {math.expm1(found - exact):+8.3%}")


if __name__ == "__main__":
    main()
