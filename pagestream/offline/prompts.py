"""What people give as prompts, and what is made of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.tokenizers.prompt_tokens import PromptTokenizer
from pagestream.offline.argument_checks import is_token_ids
from shared.errors import InvalidArgumentError

PromptInput = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, or {"prompt": text}, {"prompt_token_ids": ids}, either with a "cache_salt"."""

_KEYS = frozenset({"prompt", "prompt_token_ids", "cache_salt"})


class Prompt(NamedTuple):
    """One prompt, ready to be sent.

    Attributes:
        text: None where token ids were given.
        cache_salt: Prefixes are shared only among the same salt.
    """

    text: str | None
    token_ids: list[int]
    cache_salt: str = ""


def as_list(prompts: PromptInput | Sequence[PromptInput]) -> list[PromptInput]:
    """One prompt or several as several."""
    if isinstance(prompts, str | Mapping) or (prompts and is_token_ids(prompts)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def read_prompt(given: PromptInput, tokenizer: PromptTokenizer) -> Prompt:
    """Tokenize a prompt, or check its token ids.

    Raises:
        InvalidRequestError: it is none of what a prompt may be, or holds tokens that the model does not know.
    """
    match given:
        case str():
            return Prompt(given, tokenizer.tokenizer.encode(given))
        case Mapping():
            return _from_mapping(given, tokenizer)
        case _ if is_token_ids(given):
            token_ids = list(map(int, given))
            tokenizer.check_ids(token_ids, "prompt_token_ids")
            return Prompt(None, token_ids)
        case _:
            raise InvalidArgumentError(
                f"prompt is {given!r}, but must be a string, a list of token ids, or a dict with 'prompt' or "
                "'prompt_token_ids'",
                param="prompts",
            )


def _from_mapping(given: Mapping[str, Any], tokenizer: PromptTokenizer) -> Prompt:
    known = {key: value for key, value in given.items() if value is not None}
    if unknown := sorted(known.keys() - _KEYS):
        raise InvalidArgumentError(
            f"prompt has the key {unknown[0]!r}, which is not served; these are: {', '.join(sorted(_KEYS))}",
            param="prompts",
        )
    text = known.get("prompt")
    ids = known.get("prompt_token_ids", text)
    if ids is None or isinstance(ids, Mapping):
        raise InvalidArgumentError("a prompt needs 'prompt', a text, or 'prompt_token_ids'", param="prompts")
    prompt = read_prompt(ids, tokenizer)
    return prompt._replace(text=text if isinstance(text, str) else None, cache_salt=str(known.get("cache_salt", "")))
