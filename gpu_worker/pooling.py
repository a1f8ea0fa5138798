"""Prompts as vectors: the last hidden state of the last token, or the mean of all tokens'. Only for those who ask."""

import numpy as np
import torch
from torch import Tensor

from gpu_worker.batch_state import BatchState, Work
from shared.messages import StepPlan
from shared.packing import unpack_u16
from shared.sampling import Pooling


class Pooler:
    """Sums of hidden states by slot, while prompts are computed chunk by chunk.

    Sums are in float64, so that their rounding to float32 does not depend on the chunks.

    Invariant: a slot has a sum only while a row asks for a mean there and has no output yet.
    """

    def __init__(self) -> None:
        self._asking: dict[int, Pooling] = {}
        self._sums: dict[int, Tensor] = {}

    def apply(self, plan: StepPlan) -> None:
        """Take a plan's changes."""
        for slot in unpack_u16(plan.released):
            self._forget(slot)
        for admitted in plan.admitted:
            has_output = len(admitted.tokens) // 4 > admitted.num_prompt_tokens
            if admitted.sampling.pooling is not Pooling.NONE and not has_output:
                self._asking[admitted.slot] = admitted.sampling.pooling

    def clear(self) -> None:
        """Forget every row."""
        self._asking.clear()
        self._sums.clear()

    def pool(self, state: BatchState, work: Work, hidden: Tensor) -> dict[int, bytes]:
        """Take in a step's hidden states, and give the vectors of those prompts that are now complete, by slot.

        Args:
            state: As it is before `advance`.
            work: What was computed.
            hidden: [num_tokens, hidden_size], the model's last states.
        """
        if not self._asking:
            return {}
        stops = np.cumsum(work.num_tokens)
        vectors = {}
        for slot, count, stop in zip(work.slots.tolist(), work.num_tokens.tolist(), stops.tolist(), strict=True):
            kind = self._asking.get(slot)
            if kind is None:
                continue
            if kind is Pooling.MEAN:
                self._add(slot, hidden[stop - count : stop])
            if int(state.num_computed[slot]) + count == int(state.num_prompt_tokens[slot]):
                mean = (
                    self._sums[slot] / int(state.num_prompt_tokens[slot]) if kind is Pooling.MEAN else hidden[stop - 1]
                )
                vectors[slot] = mean.float().cpu().numpy().astype("<f4").tobytes()
                self._forget(slot)
        return vectors

    def _add(self, slot: int, hidden: Tensor) -> None:
        total = hidden.sum(0, dtype=torch.float64)
        self._sums[slot] = self._sums[slot] + total if slot in self._sums else total

    def _forget(self, slot: int) -> None:
        self._asking.pop(slot, None)
        self._sums.pop(slot, None)
