"""All processors of a worker, in their order. A row goes only through those that its request asks for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.logits_processors.allowed_tokens import AllowedTokens
from gpu_worker.logits_processors.bad_words import BadWords
from gpu_worker.logits_processors.logit_bias import LogitBias
from gpu_worker.logits_processors.min_tokens import MinTokens
from gpu_worker.logits_processors.penalties import Penalties
from gpu_worker.logits_processors.processor import LogitsProcessor
from shared.messages import StepPlan
from shared.packing import unpack_u16


def standard_processors(vocab_size: int) -> list[LogitsProcessor]:
    """Those that need nothing but a request's parameters: first what forbids tokens, then what weighs them."""
    return [
        AllowedTokens(vocab_size),
        BadWords(vocab_size),
        MinTokens(vocab_size),
        LogitBias(vocab_size),
        Penalties(vocab_size),
    ]


class LogitsPipeline:
    """Tells each processor of its sequences, and applies them.

    Invariant: a processor has taken in exactly those sequences whose slots are marked in its row of `_asks`.
    """

    def __init__(self, processors: Sequence[LogitsProcessor], *, max_num_seqs: int) -> None:
        self._processors = tuple(processors)
        self._asks = np.zeros((len(self._processors), max_num_seqs), bool)
        self._of_slot: list[list[LogitsProcessor]] = [[] for _ in range(max_num_seqs)]

    def apply(self, plan: StepPlan) -> None:
        """Take a plan's changes: forget what it releases, take in what it admits."""
        for slot in unpack_u16(plan.released):
            self._release(slot)
        for admitted in plan.admitted:
            for index, processor in enumerate(self._processors):
                if processor.admit(admitted):
                    self._asks[index, admitted.slot] = True
                    self._of_slot[admitted.slot].append(processor)

    def commit(self, slot: int, token: int) -> None:
        """A sequence goes on with this token."""
        for processor in self._of_slot[slot]:
            processor.commit(slot, token)

    def process(self, logits: Tensor, slots: NDArray[np.int64]) -> None:
        """Change the logits in place.

        Args:
            logits: [num_rows, vocab_size] float32, contiguous.
            slots: [num_rows], whose they are.
        """
        for processor, asks in zip(self._processors, self._asks, strict=True):
            rows = np.flatnonzero(asks[slots])
            if len(rows):
                processor.process(logits, rows, slots[rows])

    def clear(self) -> None:
        """Forget every sequence."""
        for slot in range(len(self._of_slot)):
            self._release(slot)

    def _release(self, slot: int) -> None:
        for processor in self._of_slot[slot]:
            processor.release(slot)
        self._of_slot[slot].clear()
        self._asks[:, slot] = False
