"""How likely a model finds a text: one step over all of it, outside of what is served."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpu_worker.kv_cache import KVCache
from gpu_worker.models.model import Model
from gpu_worker.step_input import StepInput
from kernels.arguments import PagedBatch


def log_likelihoods(
    model: Model, cache: KVCache, tokens: Sequence[int], *, block_size: int, device: torch.device
) -> Tensor:
    """The logarithm of each token's probability after those before it, but for the first.

    Args:
        model: To ask.
        cache: Its first blocks are overwritten.
        tokens: At least two.
        block_size: Tokens of a block.
        device: The model's.

    Returns:
        [num_tokens - 1] float32.
    """
    token_ids = torch.tensor(tokens, device=device)
    count = len(tokens)
    places = torch.arange(count, device=device)
    step = StepInput(
        token_ids=token_ids,
        positions=places,
        slots=places,
        batch=PagedBatch(
            query_start=torch.tensor([0, count], dtype=torch.int32, device=device),
            context_lens=torch.tensor([count], dtype=torch.int32, device=device),
            block_tables=torch.arange(-(-count // block_size), dtype=torch.int32, device=device)[None],
            block_size=block_size,
        ),
        sampled_rows=places[:-1],
        sampled_slots=np.zeros(count - 1, dtype=np.int64),
    )
    logits = model.forward(step, cache)
    return logits.log_softmax(-1).gather(1, token_ids[1:, None]).squeeze(1)
