"""Padded steps, by the Triton kernels in their interpreter; a graph's stand-in computes anew from the same tensors."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from gpu_worker.captured_steps import CapturedSteps
from gpu_worker.kv_cache import CacheGeometry, KVCache
from gpu_worker.largest_step import run_largest_step
from gpu_worker.models.decoder import Decoder
from gpu_worker.step_input import StepInput
from gpu_worker.weights import open_weights
from kernels.arguments import PagedBatch
from kernels.ops import REFERENCE
from kernels.triton.ops import TRITON
from shared.checkpoint import Checkpoint
from shared.model_config import ModelConfig

CPU = torch.device("cpu")
BLOCK = 8


def decode(tokens: list[int], contexts: list[int], tables: list[list[int]]) -> StepInput:
    """Each sequence computes the last token of its context."""
    places = torch.tensor(contexts) - 1
    blocks = torch.tensor(tables, dtype=torch.int32)
    count = len(tokens)
    return StepInput(
        token_ids=torch.tensor(tokens),
        positions=places,
        slots=blocks[torch.arange(count), places // BLOCK].long() * BLOCK + places % BLOCK,
        batch=PagedBatch(
            query_start=torch.arange(count + 1).int(),
            context_lens=torch.tensor(contexts).int(),
            block_tables=blocks,
            block_size=BLOCK,
            is_decode=True,
        ),
        sampled_rows=torch.arange(count),
        sampled_slots=torch.arange(count).numpy(),
    )


def test_padded_batches_compute_what_unpadded_ones_do_and_write_nothing_else(
    save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]],
) -> None:
    checkpoint, _ = save_tiny(num_hidden_layers=1)
    config = ModelConfig.from_checkpoint(checkpoint)
    model = Decoder(config, open_weights(checkpoint, config, dtype=torch.float32, device=CPU), TRITON, max_positions=64)
    noted = 0

    def capture(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        nonlocal noted
        noted += 1
        compute()
        return compute

    def filled() -> KVCache:
        cache = KVCache(config, CacheGeometry(BLOCK, 6, 24), TRITON, dtype=torch.float32, device=CPU)
        generator = torch.Generator().manual_seed(0)
        for index in range(config.num_hidden_layers):
            for tensor in cache.layer(index):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        return cache

    # Padding computes with whatever was in its memory.
    with torch.inference_mode(), np.errstate(all="ignore"):
        padded_cache, cache = filled(), filled()
        steps = CapturedSteps(model, padded_cache, capture, max_blocks=3, block_size=BLOCK, device=CPU, buckets=(1, 4))
        assert steps.prepare() == noted == 2
        for step in (
            decode([7, 8, 9], [10, 2, 9], [[0, 1, 5], [2, 5, 5], [3, 5, 5]]),
            decode([1], [11], [[0, 1]]),
            decode([1] * 5, [1, 1, 1, 1, 1], [[0], [1], [2], [3], [4]]),
        ):
            expected = model.hidden_states(step, cache)
            torch.testing.assert_close(steps.hidden_states(step), expected, atol=1e-5, rtol=1e-5)
        assert noted == 2, "the last step was too large for any bucket"
        for index in range(config.num_hidden_layers):
            for found, wanted in zip(padded_cache.layer(index), cache.layer(index), strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_largest_step_runs_whatever_its_proportions(
    save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]],
) -> None:
    checkpoint, _ = save_tiny()
    config = ModelConfig.from_checkpoint(checkpoint)
    seen: list[tuple[int, int]] = []

    def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((logits.shape[0], logits.shape[1]))
        assert logits.isfinite().all()
        return REFERENCE.argmax(logits)

    ops = replace(REFERENCE, argmax=argmax)
    model = Decoder(config, open_weights(checkpoint, config, dtype=torch.float32, device=CPU), ops, max_positions=40)
    with torch.inference_mode():
        for num_seqs, num_tokens in ((3, 100), (1, 50), (8, 8), (20, 7)):
            run_largest_step(
                model,
                config,
                ops,
                max_num_seqs=num_seqs,
                max_num_batched_tokens=num_tokens,
                block_size=BLOCK,
                max_positions=40,
                cache_dtype=torch.float32,
                device=CPU,
            )
    assert seen == [(3, 101), (1, 101), (8, 101), (7, 101)]
