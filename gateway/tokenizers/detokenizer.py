"""Tokens in, text out, as far as it is certain: never half a character. Pure."""

import codecs
from collections.abc import Sequence

from gateway.tokenizers.vocabulary import Vocabulary

_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class IncrementalDetokenizer:
    """The text of one growing output.

    What all calls return, one after another, is the text of all tokens at once, however they were split over the calls.
    Special tokens have no text, unless they are to be shown by their names. Bytes that are no UTF-8 become U+FFFD as
    soon as that is certain.
    """

    def __init__(self, vocabulary: Vocabulary, *, is_whole_text: bool = False, shows_special: bool = False) -> None:
        """Start with nothing.

        Args:
            vocabulary: What each token stands for.
            is_whole_text: The tokens are a text of their own (a chat message), which loses the space that some
                tokenizers put first; else they go on from another text (a prompt), and keep it.
            shows_special: Whether special tokens are text.
        """
        self._token_bytes = vocabulary.token_bytes
        self._special = vocabulary.special_tokens if shows_special else None
        self._decoder = _new_utf8_decoder(errors="replace")
        self._drops_space = is_whole_text and vocabulary.adds_leading_space

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that has become certain. Ids beyond the vocabulary, which padded models have, stand for nothing."""
        table = self._token_bytes
        size = len(table)
        pieces = [table[token] for token in token_ids if token < size]
        if self._special:
            pieces = [self._special.get(token, b"") or table[token] for token in token_ids if token < size]
        return self._start(self._decoder.decode(b"".join(pieces)))

    def flush(self) -> str:
        """End the text: the beginning of a character that never came becomes U+FFFD."""
        return self._start(self._decoder.decode(b"", final=True))

    def _start(self, text: str) -> str:
        if not self._drops_space or not text:
            return text
        self._drops_space = False
        return text.removeprefix(" ")
