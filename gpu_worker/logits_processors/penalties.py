"""repetition_penalty, frequency_penalty and presence_penalty: tokens that were there already become less likely."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.logits_processors.places import TokenIds, places_of
from shared.messages import Admitted
from shared.packing import unpack_u32
from shared.sampling import SamplingParams

_FIRST_CAPACITY = 64


class _SeenTokens:
    """The different tokens of one sequence, each with its number in the output. Grows by one token at a time."""

    def __init__(self, prompt: TokenIds, output: TokenIds) -> None:
        known = np.unique(np.concatenate((prompt, output)))
        self._size = len(known)
        capacity = max(_FIRST_CAPACITY, 2 * self._size)
        self._tokens = np.zeros(capacity, np.int64)
        self._counts = np.zeros(capacity, np.int64)
        self._tokens[: self._size] = known
        self._places = {token: place for place, token in enumerate(known.tolist())}
        np.add.at(self._counts, np.searchsorted(known, output), 1)

    @property
    def tokens(self) -> TokenIds:
        return self._tokens[: self._size]

    @property
    def counts(self) -> NDArray[np.int64]:
        return self._counts[: self._size]

    def add(self, token: int) -> None:
        place = self._places.get(token)
        if place is None:
            place = self._append(token)
        self._counts[place] += 1

    def _append(self, token: int) -> int:
        place = self._size
        if place == len(self._tokens):
            self._tokens = np.concatenate((self._tokens, np.zeros_like(self._tokens)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._tokens[place] = token
        self._places[token] = place
        self._size += 1
        return place


class Penalties:
    """Implements `LogitsProcessor`: repetition comes first, as a factor; then the others are subtracted."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._seen: dict[int, _SeenTokens] = {}
        self._sampling: dict[int, SamplingParams] = {}

    def admit(self, admitted: Admitted) -> bool:
        """See `LogitsProcessor`."""
        sampling = admitted.sampling
        repeats = sampling.repetition_penalty != 1.0
        if not (repeats or sampling.presence_penalty or sampling.frequency_penalty):
            return False
        tokens = np.array(unpack_u32(admitted.tokens), np.int64)
        # Only the repetition penalty looks at the prompt.
        prompt = tokens[: admitted.num_prompt_tokens if repeats else 0]
        self._seen[admitted.slot] = _SeenTokens(prompt, tokens[admitted.num_prompt_tokens :])
        self._sampling[admitted.slot] = sampling
        return True

    def commit(self, slot: int, token: int) -> None:
        """See `LogitsProcessor`."""
        self._seen[slot].add(token)

    def release(self, slot: int) -> None:
        """See `LogitsProcessor`."""
        del self._seen[slot], self._sampling[slot]

    def process(self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """See `LogitsProcessor`."""
        seen = [self._seen[slot] for slot in slots.tolist()]
        num_tokens = [len(one.tokens) for one in seen]

        def each(name: str) -> NDArray[np.float64]:
            numbers = [getattr(self._sampling[slot], name) for slot in slots.tolist()]
            return np.repeat(np.array(numbers, np.float64), num_tokens)

        def move(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(array).to(logits.device)

        counts = np.concatenate([one.counts for one in seen])
        subtracted = counts * each("frequency_penalty") + (counts > 0) * each("presence_penalty")
        factor = move(each("repetition_penalty").astype(np.float32))
        places = move(places_of(rows, [one.tokens for one in seen], self._vocab_size))
        flat = logits.view(-1)
        found = flat[places]
        scaled = torch.where(found > 0, found / factor, found * factor)
        flat[places] = scaled - move(subtracted.astype(np.float32))
