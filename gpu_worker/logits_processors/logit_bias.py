"""logit_bias: numbers added to the logits of some tokens."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.logits_processors.places import TokenIds, places_of
from shared.messages import Admitted


class LogitBias:
    """Implements `LogitsProcessor`."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._tokens: dict[int, TokenIds] = {}
        self._biases: dict[int, NDArray[np.float32]] = {}

    def admit(self, admitted: Admitted) -> bool:
        """See `LogitsProcessor`."""
        biased = [(token, bias) for token, bias in admitted.sampling.logit_bias if token < self._vocab_size]
        if not biased:
            return False
        tokens, biases = zip(*biased, strict=True)
        self._tokens[admitted.slot] = np.array(tokens, np.int64)
        self._biases[admitted.slot] = np.array(biases, np.float32)
        return True

    def commit(self, slot: int, token: int) -> None:
        """Nothing depends on the output."""

    def release(self, slot: int) -> None:
        """See `LogitsProcessor`."""
        del self._tokens[slot], self._biases[slot]

    def process(self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """See `LogitsProcessor`."""
        places = places_of(rows, [self._tokens[slot] for slot in slots.tolist()], self._vocab_size)
        biases = np.concatenate([self._biases[slot] for slot in slots.tolist()])
        logits.view(-1)[torch.from_numpy(places).to(logits.device)] += torch.from_numpy(biases).to(logits.device)
