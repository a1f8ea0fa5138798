"""How the next token is chosen, as people write it: vLLM's names, defaults and ranges. The wire has its own type."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Final, Self

from pagestream.offline.argument_checks import Range, are_texts, is_number, is_token_ids, wrong

_RANGES: Final[Mapping[str, Range]] = {
    "n": Range(Integral, 1, 16384),
    "presence_penalty": Range(Real, -2, 2),
    "frequency_penalty": Range(Real, -2, 2),
    "repetition_penalty": Range(Real, 0, excludes_least=True),
    "temperature": Range(Real, 0, 2),
    "top_p": Range(Real, 0, 1, excludes_least=True),
    "top_k": Range(Integral, -1),
    "min_p": Range(Real, 0, 1),
    "seed": Range(Integral, may_be_none=True),
    "max_tokens": Range(Integral, 1, may_be_none=True),
    "min_tokens": Range(Integral, 0),
    "logprobs": Range(Integral, -1, may_be_none=True),
    "prompt_logprobs": Range(Integral, -1, may_be_none=True),
}
_OPTIONAL: Final = frozenset({"stop", *(name for name, numbers in _RANGES.items() if numbers.may_be_none)})


@dataclass(slots=True, kw_only=True)
class StructuredOutputsParams:
    """What an output must look like: one of the first five.

    Attributes:
        json: JSON that fits this JSON Schema, given as a dict or as text.
        regex: A text that this pattern matches as a whole.
        choice: One of these texts.
        grammar: A text of this grammar, written as Lark or llama.cpp (GBNF) do.
        json_object: Any JSON object.
        disable_any_whitespace: JSON without white space between its tokens.
        disable_additional_properties: JSON objects with the properties that the schema names, and no others.
        whitespace_pattern: What may stand between JSON's tokens.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None


@dataclass(slots=True)
class SamplingParams:
    """Parameters of one request.

    They are checked when they are made, and again when they are used: whoever changes a field later is told as well.

    Attributes:
        n: Outputs for the prompt.
        presence_penalty: Against tokens that the output holds, in [-2, 2].
        frequency_penalty: The same for each time that it holds them.
        repetition_penalty: Divides the scores of tokens in prompt or output; above 1 discourages.
        temperature: 0 takes the likeliest token.
        top_p: Only the likeliest tokens of this mass, in (0, 1].
        top_k: Only so many of the likeliest tokens; 0 or -1 are all.
        min_p: Only tokens of this probability relative to the likeliest one's, in [0, 1].
        seed: Makes the output repeatable; None takes one from the `LLM`'s own.
        stop: Strings that end the output, and are not part of it.
        stop_token_ids: Tokens that end the output.
        ignore_eos: Go on after the model's own end tokens.
        max_tokens: Output tokens at most; None fills the model's context.
        min_tokens: No end token before so many.
        logprobs: Likeliest tokens told beside each output token; None tells nothing.
        prompt_logprobs: The same for the tokens of the prompt.
        detokenize: Make text of the tokens.
        skip_special_tokens: Leave special tokens out of the text.
        spaces_between_special_tokens: Has no meaning for fast tokenizers, and is taken for vLLM's sake.
        include_stop_str_in_output: End the text with the stop string instead of before it.
        logit_bias: Added to the scores of tokens, by token id.
        allowed_token_ids: Choose among these tokens only.
        bad_words: Never write these.
        structured_outputs: What the output must look like.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        self.verify()

    @classmethod
    def from_optional(cls, **parameters: Any) -> Self:  # noqa: ANN401 - one of the fields each
        """Take None as a field's default, unless it means something there."""
        given = {name: value for name, value in parameters.items() if value is not None or name in _OPTIONAL}
        return cls(**given)

    def clone(self) -> Self:
        """A copy that may be changed."""
        return copy.deepcopy(self)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def verify(self) -> None:
        """Check every field.

        Raises:
            InvalidArgumentError: one has a value that it cannot have.
        """
        for name, numbers in _RANGES.items():
            numbers.check(name, getattr(self, name))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise wrong("min_tokens", self.min_tokens, f"at most max_tokens, {self.max_tokens}")
        if not are_texts([self.stop] if isinstance(self.stop, str) else self.stop or ()):
            raise wrong("stop", self.stop, "a string or a list of strings, none of them empty")
        if self.stops and not self.detokenize:
            raise wrong("detokenize", self.detokenize, "True where there are stop strings")
        if not are_texts(self.bad_words or ()):
            raise wrong("bad_words", self.bad_words, "a list of strings, none of them empty")
        if not is_token_ids(self.stop_token_ids or ()):
            raise wrong("stop_token_ids", self.stop_token_ids, "a list of token ids")
        allowed = self.allowed_token_ids
        if allowed is not None and not (allowed and is_token_ids(allowed)):
            raise wrong("allowed_token_ids", allowed, "None, or a list of at least one token id")
        if not all(map(is_number, (self.logit_bias or {}).values())):
            raise wrong("logit_bias", self.logit_bias, "finite numbers by token id")
