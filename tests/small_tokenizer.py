"""A byte-level tokenizer of 300 tokens: every byte, pieces that JSON is made of, and marks of chat formats."""

import itertools

import tokenizers

from shared.gguf_tokenizer import tokenizer_from_gguf

_MERGED = ('{"', '":', '",', '"}', "tr", "true", "nu", "null", "name", "12", "123", "in", "the", "\\n", "é")
_SPECIAL = ("<|im_start|>", "<|im_end|>", "[TOOL_CALLS]", "<|python_tag|>")
_ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>")

EOS = "<|im_end|>"


def _byte_characters() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def small_metadata() -> dict[str, object]:
    """As a GGUF file holds it."""
    alphabet = _byte_characters()
    tokens, merges = list(alphabet), list[str]()
    for text in _MERGED:
        pieces = [alphabet[byte] for byte in text.encode()]
        while len(pieces) > 1:
            merge, whole = f"{pieces[0]} {pieces[1]}", pieces[0] + pieces[1]
            if merge not in merges:
                merges.append(merge)
                tokens.append(whole)
            pieces[:2] = [whole]
    first_special = len(tokens)
    tokens += [*_SPECIAL, *_ADDED]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * first_special + [3] * len(_SPECIAL) + [4] * len(_ADDED),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": first_special + _SPECIAL.index(EOS),
    }


def small_tokenizer() -> tokenizers.Tokenizer:
    """Built anew."""
    return tokenizer_from_gguf(small_metadata())
