"""min_tokens: a sequence's stop tokens are not chosen before its output is so long."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.logits_processors.places import TokenIds, known_tokens, places_of
from shared.messages import Admitted
from shared.packing import unpack_u32


class MinTokens:
    """Implements `LogitsProcessor`."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._ends: dict[int, TokenIds] = {}
        self._num_missing: dict[int, int] = {}

    def admit(self, admitted: Admitted) -> bool:
        """See `LogitsProcessor`."""
        num_output_tokens = len(unpack_u32(admitted.tokens)) - admitted.num_prompt_tokens
        num_missing = admitted.sampling.min_tokens - num_output_tokens
        if num_missing <= 0 or not admitted.sampling.stop_token_ids:
            return False
        self._num_missing[admitted.slot] = num_missing
        self._ends[admitted.slot] = known_tokens(admitted.sampling.stop_token_ids, self._vocab_size)
        return True

    def commit(self, slot: int, token: int) -> None:
        """See `LogitsProcessor`."""
        self._num_missing[slot] -= 1

    def release(self, slot: int) -> None:
        """See `LogitsProcessor`."""
        del self._num_missing[slot], self._ends[slot]

    def process(self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """See `LogitsProcessor`."""
        is_short = [self._num_missing[slot] > 0 for slot in slots.tolist()]
        if any(is_short):
            ends = [self._ends[slot] for slot in slots[is_short].tolist()]
            places = places_of(rows[is_short], ends, self._vocab_size)
            logits.view(-1)[torch.from_numpy(places).to(logits.device)] = -torch.inf
