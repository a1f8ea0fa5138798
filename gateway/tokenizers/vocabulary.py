"""The bytes behind each token: what the detokenizer needs to know of a tokenizer, and nothing else."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import tokenizers

from shared.errors import CheckpointError

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK: Final = "\u2581"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A table from token ids to bytes.

    Attributes:
        token_bytes: By token id; empty for special tokens, which are never shown.
        adds_leading_space: The tokenizer puts a space before every text, so that a decoded text loses its first one.
        special_tokens: What the special tokens are called.
    """

    token_bytes: tuple[bytes, ...]
    adds_leading_space: bool = False
    special_tokens: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> "Vocabulary":
        """Read the table out of a tokenizer.

        Raises:
            CheckpointError: its decoder is of a kind that does not map each token to bytes of its own.
        """
        steps = _decoder_steps(tokenizer)
        to_bytes = _token_to_bytes(steps)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        table = [b""] * (max(vocabulary.values(), default=-1) + 1)
        for token, token_id in vocabulary.items():
            table[token_id] = to_bytes(token)
        special = {}
        for token_id, added in tokenizer.get_added_tokens_decoder().items():
            table[token_id] = b"" if added.special else added.content.encode()
            if added.special:
                special[token_id] = added.content.encode()
        return cls(tuple(table), any(_strips_leading_space(step) for step in steps), special)

    def bytes_of(self, token_id: int) -> bytes:
        """A token's bytes, or a special token's name; none for ids beyond the vocabulary, which padded models have."""
        if token_id >= len(self.token_bytes):
            return b""
        return self.special_tokens.get(token_id) or self.token_bytes[token_id]


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level BPE.

    Source: `bytes_to_unicode` of GPT-2's encoder.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTE_OF_CHARACTER: Final = {ord(character): byte for byte, character in byte_alphabet().items()}


def _decoder_steps(tokenizer: tokenizers.Tokenizer) -> list[dict[str, object]]:
    if tokenizer.decoder is None:
        raise CheckpointError("the tokenizer has no decoder, so that its tokens cannot be turned into text")
    state = json.loads(tokenizer.decoder.__getstate__())
    return [dict(step) for step in _flatten(state)]


def _flatten(step: dict[str, object]) -> Iterable[dict[str, object]]:
    if step["type"] != "Sequence":
        return [step]
    inner = step["decoders"]
    assert isinstance(inner, list)
    return [leaf for child in inner for leaf in _flatten(child)]


def _token_to_bytes(steps: list[dict[str, object]]) -> Callable[[str], bytes]:
    kinds = {str(step["type"]) for step in steps}
    if unknown := kinds - {"ByteLevel", "ByteFallback", "Replace", "Fuse", "Strip", "Metaspace"}:
        raise CheckpointError(
            f"the tokenizer's decoder {sorted(unknown)} is not supported, only byte-level and SentencePiece BPE"
        )
    if "ByteLevel" in kinds:
        return _byte_level
    return _sentencepiece_with_bytes if "ByteFallback" in kinds else _sentencepiece


def _byte_level(token: str) -> bytes:
    characters = token.translate(_BYTE_OF_CHARACTER)
    try:
        return characters.encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    return token.replace(_SPACE_MARK, " ").encode()


def _sentencepiece_with_bytes(token: str) -> bytes:
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return _sentencepiece(token)


def _strips_leading_space(step: dict[str, object]) -> bool:
    if step["type"] == "Metaspace":
        return step.get("prepend_scheme") != "never"
    return step["type"] == "Strip" and step.get("content") == " " and step.get("start") == 1
