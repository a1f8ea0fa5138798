"""OpenAI's request bodies: which fields there are, which values they take, and which of them are not served."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.body_parsing import read_fields, refuse_unsupported, show, validated
from shared.errors import InvalidRequestError

MAX_STOP_STRINGS: Final = 16
_MAX_STOP_CHARACTERS: Final = 1024

Prompt = str | list[int]

_NO_OP_VALUES: Final[Mapping[str, tuple[object, ...]]] = {
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields that would change the output and are not served yet, with the values at which they change nothing."""


def _text_of_content(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise PydanticCustomError("content", "Input should be a string or a list of text parts")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise PydanticCustomError(
                "content", "Only parts of type 'text' are supported, got {kind}", {"kind": show(kind)}
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("content", "A part of type 'text' needs a string 'text'")
        texts.append(part["text"])
    return "\n".join(texts)


def _as_prompts(prompt: object) -> list[Prompt]:
    if isinstance(prompt, str) or _is_token_ids(prompt):
        prompt = [prompt]
    if isinstance(prompt, list) and prompt and all(isinstance(item, str) or _is_token_ids(item) for item in prompt):
        return prompt
    raise PydanticCustomError(
        "prompt", "Input should be a string, a list of strings, a list of token ids or a list of such lists, not empty"
    )


def _is_token_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


StopString = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARACTERS)]


class ChatMessageBody(BaseModel):
    """One message. Content given as text parts is their text, one part a line; further fields go to the template."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str, BeforeValidator(_text_of_content)]

    @model_validator(mode="before")
    @classmethod
    def _assistant_may_be_silent(cls, fields: object) -> object:
        """An assistant's message that only calls a tool has no content."""
        if isinstance(fields, dict) and fields.get("role") == "assistant" and fields.get("content") is None:
            return fields | {"content": ""}
        return fields


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class GenerationBody(BaseModel):
    """What both endpoints have in common. Ranges are OpenAI's, or vLLM's for the fields that OpenAI does not have."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    model: str
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1, lt=2**31)
    min_p: float = Field(default=0.0, ge=0, le=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, gt=0)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    n: int = Field(default=1, ge=1, le=128)
    stop: Annotated[list[StopString], BeforeValidator(_as_list), Field(max_length=MAX_STOP_STRINGS)] = []
    stop_token_ids: list[int] = Field(default=[], max_length=256)
    ignore_eos: bool = False
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    cache_salt: str = Field(default="", max_length=256)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body. A field that is null counts as absent.

        Raises:
            InvalidRequestError: no JSON object, a value that is out of range, or a field that is not served.
        """
        fields = read_fields(body)
        refuse_unsupported(fields, _NO_OP_VALUES)
        if fields.get("best_of", fields.get("n", 1)) != fields.get("n", 1):
            raise InvalidRequestError(
                "'best_of' is supported only where it equals 'n'", param="best_of", code="unsupported_parameter"
            )
        return validated(cls, fields)

    @property
    def output_limit(self) -> int | None:
        """Output tokens at most, if the client says so."""
        return self.max_tokens


class ChatCompletionBody(GenerationBody):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessageBody] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    add_generation_prompt: bool = True

    @property
    def output_limit(self) -> int | None:
        """Output tokens at most, if the client says so; the newer name of the field wins."""
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(GenerationBody):
    """`POST /v1/completions`."""

    prompt: Annotated[list[Any], BeforeValidator(_as_prompts)]

    @property
    def prompts(self) -> list[Prompt]:
        """Texts, or token ids that have not been checked against the vocabulary."""
        return self.prompt
