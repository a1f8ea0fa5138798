"""The tensors of one step, derived from the batch state and thrown away after the step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.batch_state import BatchState, Work
from gpu_worker.staging import Move, as_tensors
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
    def build(cls, state: BatchState, work: Work, move: Move = as_tensors) -> "StepInput":
        """Derive a step's input, for at least one row that computes at least one token; move: see `staging`."""
        block_size = state.block_size
        first = state.num_computed[work.slots]
        contexts = first + work.num_tokens
        query_start = np.concatenate(([0], np.cumsum(work.num_tokens)))
        sequence = np.repeat(np.arange(len(work.slots)), work.num_tokens)
        positions = np.arange(query_start[-1]) - query_start[sequence] + first[sequence]
        tables = state.block_tables[work.slots, : -(-int(contexts.max()) // block_size)]
        slots = tables[sequence, positions // block_size].astype(np.int64) * block_size + positions % block_size
        is_sampled = contexts == state.num_tokens[work.slots]

        token_ids, places, own_slots, starts, lengths, blocks, sampled_rows = move(
            [
                state.tokens[work.slots[sequence], positions].astype(np.int64),
                positions.astype(np.int64),
                slots.astype(np.int64),
                query_start.astype(np.int32),
                contexts.astype(np.int32),
                tables.astype(np.int32),
                (query_start[1:][is_sampled] - 1).astype(np.int64),
            ]
        )
        is_decode = len(positions) == len(work.slots)
        return cls(
            token_ids=token_ids,
            positions=places,
            slots=own_slots,
            batch=PagedBatch(starts, lengths, blocks, block_size, is_decode),
            sampled_rows=sampled_rows,
            sampled_slots=work.slots[is_sampled],
        )
