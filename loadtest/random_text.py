"""Text that means nothing and has as many tokens as wanted."""

import math
import random
import re
from collections.abc import Iterable
from typing import Final, TypeVar

from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import CheckpointError

_T = TypeVar("_T")

_WORD: Final = re.compile(rb" [A-Za-z]+")
_LETTER: Final = re.compile(rb"[A-Za-z]")
_MAX_ATTEMPTS: Final = 8


class RandomText:
    """Strings whole words of a vocabulary together, since those are tokens again when the server reads them.

    Two texts share no prefix to speak of, so that no prefix cache helps by chance.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        """Find the words.

        Raises:
            CheckpointError: the vocabulary has none.
        """
        self._tokenizer = tokenizer
        self._source = random.Random(seed)
        vocabulary = tokenizer.vocabulary.token_bytes
        pieces = list(filter(_WORD.fullmatch, vocabulary)) or list(filter(_LETTER.fullmatch, vocabulary))
        if not pieces:
            raise CheckpointError("the tokenizer has no words of Latin letters to make random prompts of")
        self._words = [piece.decode("ascii") for piece in pieces]
        self.num_special_tokens = len(tokenizer.encode(""))

    def of(self, num_tokens: int) -> str:
        """A text of that many tokens, not counting special ones that the server puts around it."""
        words = self._source.choices(self._words, k=num_tokens)
        text = "".join(words)
        for _ in range(_MAX_ATTEMPTS):
            surplus = self.count(text) - num_tokens
            if not surplus:
                break
            # Now and then words merge with each other, or are more than one token where they stand.
            if surplus > 0:
                del words[max(1, len(words) - surplus) :]
            else:
                words += self._source.choices(self._words, k=-surplus)
            text = "".join(words)
        return text

    def count(self, text: str) -> int:
        """The tokens of a text, without special ones."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def length_around(self, mean: int, range_ratio: float) -> int:
        """A length drawn evenly from `mean * (1 - range_ratio)` to `mean * (1 + range_ratio)`; at least 1."""
        shortest, longest = math.floor(mean * (1 - range_ratio)), math.ceil(mean * (1 + range_ratio))
        return max(1, self._source.randint(shortest, longest))

    def shuffled(self, items: Iterable[_T]) -> list[_T]:
        """The same in another order."""
        return self._source.sample(listed := list(items), len(listed))
