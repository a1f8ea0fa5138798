"""A tokenizer out of a GGUF file's metadata, which holds the vocabulary and names the rules instead of stating them.

The names of the rules and what they mean are llama.cpp's (`src/llama-vocab.cpp`).
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from shared.errors import CheckpointError

Metadata = Mapping[str, object]

_T = TypeVar("_T")
_SPACE_MARK: Final = "\u2581"


class _TokenType(IntEnum):
    """Values of `tokenizer.ggml.token_type`."""

    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4


class _PreTokenization(NamedTuple):
    """How a text is split before merges apply.

    Attributes:
        pattern: Pieces of a text; GPT-2's own if None.
        single_digits: Each digit is a piece of its own before that.
        ignores_merges: A piece that is a token is taken whole.
        adds_bos: A text begins with the beginning-of-sequence token unless the file says otherwise.
        normalizes: Texts are brought to Unicode's NFC first.
    """

    pattern: str | None = None
    single_digits: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False
    normalizes: bool = False


_LLAMA_3_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2_PATTERN: Final = _LLAMA_3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT_2: Final = _PreTokenization()
_SMOLLM: Final = _PreTokenization(single_digits=True)
_LLAMA_3: Final = _PreTokenization(_LLAMA_3_PATTERN, ignores_merges=True, adds_bos=True)
_QWEN_2: Final = _PreTokenization(_QWEN_2_PATTERN, normalizes=True)
_PRE_TOKENIZATIONS: Final = {
    "default": _GPT_2,
    "gpt-2": _GPT_2,
    "smollm": _SMOLLM,
    "llama-bpe": _LLAMA_3,
    "llama3": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "qwen2": _QWEN_2,
    "deepseek-r1-qwen": _QWEN_2,
}


def tokenizer_from_gguf(metadata: Metadata) -> tokenizers.Tokenizer:
    """Build the tokenizer.

    Args:
        metadata: Of the file, with arrays as lists.

    Raises:
        CheckpointError: the file describes a tokenizer that is not supported, or describes it incompletely.
    """
    tokens = [str(token) for token in _get(metadata, "tokens", list)]
    kind = _get(metadata, "model", str)
    match kind:
        case "gpt2":
            backend, adds_bos = _byte_level_bpe(metadata, tokens)
        case "llama":
            backend, adds_bos = _sentencepiece_bpe(metadata, tokens), True
        case _:
            raise CheckpointError(f"tokenizer.ggml.model is {kind!r}; supported are 'gpt2' and 'llama'")
    _add_special_tokens(backend, metadata, tokens)
    _set_template(backend, metadata, tokens, adds_bos=_get(metadata, "add_bos_token", bool, default=adds_bos))
    return backend


def named_token(metadata: Metadata, name: str) -> str | None:
    """The token that the file calls "bos", "eos", "unknown" or "padding", if it names one."""
    tokens, token_id = metadata.get("tokenizer.ggml.tokens"), metadata.get(f"tokenizer.ggml.{name}_token_id")
    if not (isinstance(tokens, list) and isinstance(token_id, int) and 0 <= token_id < len(tokens)):
        return None
    return str(tokens[token_id])


def _get(metadata: Metadata, name: str, kind: type[_T], *, default: _T | None = None) -> _T:
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(value, kind):
        found = "is missing" if value is None else f"is a {type(value).__name__}"
        raise CheckpointError(f"the GGUF file's tokenizer.ggml.{name} {found}; expected a {kind.__name__}")
    return value


def _byte_level_bpe(metadata: Metadata, tokens: list[str]) -> tuple[tokenizers.Tokenizer, bool]:
    name = _get(metadata, "pre", str, default="default")
    rule = _PRE_TOKENIZATIONS.get(name)
    if rule is None:
        raise CheckpointError(
            f"tokenizer.ggml.pre is {name!r}, which is not supported; supported are {sorted(_PRE_TOKENIZATIONS)}. "
            "Load the model from its Hugging Face directory instead"
        )
    merges = [_pair(str(merge)) for merge in _get(metadata, "merges", list)]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rule.ignores_merges))
    if rule.normalizes:
        backend.normalizer = normalizers.NFC()
    steps: list[pre_tokenizers.PreTokenizer] = []
    if rule.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if rule.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(rule.pattern), behavior="isolated"))
    add_space = _get(metadata, "add_space_prefix", bool, default=False)
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=add_space, use_regex=rule.pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend, rule.adds_bos


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _sentencepiece_bpe(metadata: Metadata, tokens: list[str]) -> tokenizers.Tokenizer:
    scores = [float(score) for score in _get(metadata, "scores", list)]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    merges = _merges_by_score(vocabulary, scores)
    unknown = tokens[_get(metadata, "unknown_token_id", int, default=0)]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    mark_spaces = normalizers.Replace(" ", _SPACE_MARK)
    fused = [decoders.Replace(_SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if _get(metadata, "add_space_prefix", bool, default=True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE_MARK), mark_spaces])
        backend.decoder = decoders.Sequence([*fused, decoders.Strip(" ", 1, 0)])
    else:
        backend.normalizer = mark_spaces
        backend.decoder = decoders.Sequence(fused)
    return backend


def _merges_by_score(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """SentencePiece merges the pair whose whole has the highest score; as an ordered list, that is BPE's.

    Source: `generate_merges` in transformers' `convert_slow_tokenizer.py`.
    """
    found: list[tuple[float, int, int, str, str]] = []
    for piece, token_id in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left is not None and right is not None:
                found.append((-scores[token_id], left, right, piece[:cut], piece[cut:]))
    found.sort()
    return [(left, right) for _, _, _, left, right in found]


def _add_special_tokens(backend: tokenizers.Tokenizer, metadata: Metadata, tokens: list[str]) -> None:
    special = {_TokenType.CONTROL, _TokenType.UNKNOWN}
    added = [
        tokenizers.AddedToken(token, special=kind in special, normalized=False)
        for token, kind in zip(tokens, _get(metadata, "token_type", list, default=[]), strict=False)
        if kind in special or kind == _TokenType.USER_DEFINED
    ]
    backend.add_tokens(added)


def _set_template(backend: tokenizers.Tokenizer, metadata: Metadata, tokens: list[str], *, adds_bos: bool) -> None:
    first = [named_token(metadata, "bos")] if adds_bos else []
    last = [named_token(metadata, "eos")] if _get(metadata, "add_eos_token", bool, default=False) else []
    around = {token for token in (*first, *last) if token is not None}
    if around:
        backend.post_processor = processors.TemplateProcessing(
            single=[*filter(None, first), "$A", *filter(None, last)],
            special_tokens=[(token, tokens.index(token)) for token in sorted(around)],
        )
