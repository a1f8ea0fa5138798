"""The tensors of one step, derived from the batch state and thrown away after the step."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.batch_state import BatchState, Work
from kernels.arguments import PagedBatch


@dataclass(frozen=True, slots=True)
class StepInput:
    """What the model reads in one step; the sequences' tokens are packed one after another.

    Attributes:
        token_ids: [num_tokens] int64.
        positions: [num_tokens] int64, each token's place in its sequence.
        slots: [num_tokens] int64, where each token's keys and values go.
        batch: Who attends to what.
        sampled_rows: [num_sampled] int64, the tokens that a new one follows.
        sampled_slots: [num_sampled], whose they are.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    batch: PagedBatch
    sampled_rows: Tensor
    sampled_slots: NDArray[np.int64]

    @property
    def is_decode(self) -> bool:
        """Whether every sequence computes one token."""
        return self.batch.is_decode

    @classmethod
    def build(cls, state: BatchState, work: Work, *, device: torch.device) -> "StepInput":
        """Derive a step's input, for at least one row that computes at least one token."""
        block_size = state.block_size
        first = state.num_computed[work.slots]
        contexts = first + work.num_tokens
        query_start = np.concatenate(([0], np.cumsum(work.num_tokens)))
        sequence = np.repeat(np.arange(len(work.slots)), work.num_tokens)
        positions = np.arange(query_start[-1]) - query_start[sequence] + first[sequence]
        tables = state.block_tables[work.slots, : -(-int(contexts.max()) // block_size)]
        slots = tables[sequence, positions // block_size].astype(np.int64) * block_size + positions % block_size
        is_sampled = contexts == state.num_tokens[work.slots]

        def move(array: NDArray[np.generic], dtype: type[np.generic]) -> Tensor:
            return torch.from_numpy(array.astype(dtype)).to(device)

        return cls(
            token_ids=move(state.tokens[work.slots[sequence], positions], np.int64),
            positions=move(positions, np.int64),
            slots=move(slots, np.int64),
            batch=PagedBatch(
                query_start=move(query_start, np.int32),
                context_lens=move(contexts, np.int32),
                block_tables=move(tables, np.int32),
                block_size=block_size,
                is_decode=len(positions) == len(work.slots),
            ),
            sampled_rows=move(query_start[1:][is_sampled] - 1, np.int64),
            sampled_slots=work.slots[is_sampled],
        )
