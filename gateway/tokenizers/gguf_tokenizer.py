"""The tokenizer of a GGUF file with what the gateway needs beside it: the ends of an answer, and the chat template."""

from collections.abc import Mapping, Sequence

from gateway.tokenizers.chat_template import ChatTemplate
from gateway.tokenizers.tokenizer import Tokenizer
from shared import gguf_tokenizer


def tokenizer_from_gguf(metadata: Mapping[str, object], eos_token_ids: Sequence[int] = ()) -> Tokenizer:
    """Build the tokenizer.

    Args:
        metadata: Of the file, with arrays as lists.
        eos_token_ids: Tokens that end an answer, beyond those that the file names.

    Raises:
        CheckpointError: the file describes a tokenizer that is not supported, or describes it incompletely.
    """
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    source, special_tokens = metadata.get("tokenizer.chat_template"), _special_tokens(metadata)
    return Tokenizer(
        gguf_tokenizer.tokenizer_from_gguf(metadata),
        eos_token_ids=[*(end for end in ends if isinstance(end, int)), *eos_token_ids],
        chat_template=ChatTemplate(source, special_tokens) if isinstance(source, str) else None,
        special_tokens=special_tokens,
    )


def _special_tokens(metadata: Mapping[str, object]) -> dict[str, str]:
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    tokens = {key: gguf_tokenizer.named_token(metadata, name) for key, name in names.items()}
    return {key: token for key, token in tokens.items() if token is not None}
