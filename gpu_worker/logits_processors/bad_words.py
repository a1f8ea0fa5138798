"""bad_words: token sequences of which the output never holds one."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.logits_processors.places import TokenIds, known_tokens, places_of
from shared.messages import Admitted
from shared.packing import unpack_u32

_Word = tuple[tuple[int, ...], int]
"""The tokens before the last one, and the last one."""


@dataclass(slots=True)
class _Row:
    """One sequence's words.

    Attributes:
        always: Words of one token.
        longer: The others, by their last token but one.
        tail: The output's last tokens, as many as the longest word has before its end.
    """

    always: TokenIds
    longer: dict[int, list[_Word]]
    max_tail: int
    tail: list[int]

    def remember(self, token: int) -> None:
        self.tail.append(token)
        del self.tail[: -self.max_tail or len(self.tail)]

    def forbidden(self) -> TokenIds:
        if not self.tail:
            return self.always
        ends = [end for start, end in self.longer.get(self.tail[-1], ()) if (*self.tail[-len(start) :],) == start]
        return np.concatenate((self.always, np.array(ends, np.int64))) if ends else self.always


class BadWords:
    """Implements `LogitsProcessor`. A word may begin anywhere in the output; the prompt does not count."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: dict[int, _Row] = {}

    def admit(self, admitted: Admitted) -> bool:
        """See `LogitsProcessor`."""
        words = [(word[:-1], word[-1]) for word in admitted.sampling.bad_words if max(word) < self._vocab_size]
        if not words:
            return False
        longer: dict[int, list[_Word]] = {}
        for start, end in words:
            if start:
                longer.setdefault(start[-1], []).append((start, end))
        row = _Row(
            always=known_tokens([end for start, end in words if not start], self._vocab_size),
            longer=longer,
            max_tail=max(len(start) for start, _ in words),
            tail=[],
        )
        for token in unpack_u32(admitted.tokens)[admitted.num_prompt_tokens :]:
            row.remember(token)
        self._rows[admitted.slot] = row
        return True

    def commit(self, slot: int, token: int) -> None:
        """See `LogitsProcessor`."""
        self._rows[slot].remember(token)

    def release(self, slot: int) -> None:
        """See `LogitsProcessor`."""
        del self._rows[slot]

    def process(self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """See `LogitsProcessor`."""
        forbidden = [self._rows[slot].forbidden() for slot in slots.tolist()]
        places = places_of(rows, forbidden, self._vocab_size)
        logits.view(-1)[torch.from_numpy(places).to(logits.device)] = -torch.inf
