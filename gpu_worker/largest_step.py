"""The largest step that a worker can be given, run once to see what it takes of memory."""

import numpy as np
import torch

from gpu_worker.kv_cache import CacheGeometry, KVCache
from gpu_worker.models.model import Model
from gpu_worker.step_input import StepInput
from kernels.arguments import PagedBatch, SamplingTensors
from kernels.ops import Ops
from shared.model_config import ModelConfig


def run_largest_step(
    model: Model,
    config: ModelConfig,
    ops: Ops,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    block_size: int,
    max_positions: int,
    cache_dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Compute as many tokens as a step may have, and choose a token for as many sequences, on a cache of one block.

    What is computed has no meaning: all sequences share the block.
    """
    cache = KVCache(config, CacheGeometry(block_size, 1, block_size), ops, dtype=cache_dtype, device=device)
    for index in range(config.num_hidden_layers):
        for tensor in cache.layer(index):
            tensor.view(torch.uint8).zero_()
    num_seqs = min(max_num_seqs, max_num_batched_tokens)
    step = _step(num_seqs, max_num_batched_tokens, block_size, max_positions, device)
    hidden = model.hidden_states(step, cache)
    logits = model.logits(hidden[:num_seqs])
    ops.argmax(logits)
    ops.sample(logits, _plain_sampling(num_seqs, device))


def _step(num_seqs: int, num_tokens: int, block_size: int, max_positions: int, device: torch.device) -> StepInput:
    """Tokens dealt out evenly."""
    counts = torch.full((num_seqs,), num_tokens // num_seqs)
    counts[: num_tokens % num_seqs] += 1
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    places = torch.cat([torch.arange(count) for count in counts.tolist()]) % max_positions
    max_blocks = -(-int(counts[0]) // block_size)
    return StepInput(
        token_ids=torch.zeros(num_tokens, dtype=torch.int64, device=device),
        positions=places.to(device),
        slots=(places % block_size).to(device),
        batch=PagedBatch(
            query_start=starts.to(device, torch.int32),
            context_lens=counts.to(device, torch.int32),
            block_tables=torch.zeros(num_seqs, max_blocks, dtype=torch.int32, device=device),
            block_size=block_size,
            is_decode=num_tokens == num_seqs,
        ),
        sampled_rows=(starts[1:] - 1).to(device),
        sampled_slots=np.arange(num_seqs),
    )


def _plain_sampling(num_rows: int, device: torch.device) -> SamplingTensors:
    return SamplingTensors(
        temperature=torch.ones(num_rows, device=device),
        top_k=torch.full((num_rows,), 50, device=device),
        top_p=torch.full((num_rows,), 0.9, dtype=torch.float64, device=device),
        min_p=torch.zeros(num_rows, device=device),
        uniforms=torch.full((num_rows,), 0.5, dtype=torch.float64, device=device),
    )
