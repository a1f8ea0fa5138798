"""allowed_token_ids: a sequence's output is made of these tokens alone."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.logits_processors.places import TokenIds, known_tokens, places_of
from shared.messages import Admitted


class AllowedTokens:
    """Implements `LogitsProcessor`."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._allowed: dict[int, TokenIds] = {}

    def admit(self, admitted: Admitted) -> bool:
        """See `LogitsProcessor`."""
        if not admitted.sampling.allowed_token_ids:
            return False
        self._allowed[admitted.slot] = np.unique(known_tokens(admitted.sampling.allowed_token_ids, self._vocab_size))
        return True

    def commit(self, slot: int, token: int) -> None:
        """Nothing depends on the output."""

    def release(self, slot: int) -> None:
        """See `LogitsProcessor`."""
        del self._allowed[slot]

    def process(self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """See `LogitsProcessor`."""
        allowed = places_of(rows, [self._allowed[slot] for slot in slots.tolist()], self._vocab_size)
        places, flat = torch.from_numpy(allowed).to(logits.device), logits.view(-1)
        kept = flat[places]
        logits.index_fill_(0, torch.from_numpy(rows).to(logits.device), -torch.inf)
        flat[places] = kept
