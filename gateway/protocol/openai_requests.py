"""OpenAI's request bodies: which fields there are, which values they take, and which of them are not served."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from gateway.chat.conversation import Conversation
from gateway.grammars.structured_output import OutputFields
from gateway.protocol.body_parsing import read_fields, refuse_unsupported, validated
from gateway.protocol.sampling_fields import SamplingFields
from gateway.shapes.shape import Detail
from shared.errors import InvalidRequestError

Prompt = str | list[int]

_MAX_BEST_OF: Final = 20

VLLM_NO_OP_VALUES: Final[Mapping[str, tuple[object, ...]]] = {
    "ec_transfer_params": (),
    "kv_transfer_params": (),
    "logits_processors": ([],),
    "logprob_token_ids": ([],),
    "media_io_kwargs": ({},),
    "mm_payload": (),
    "mm_processor_kwargs": ({},),
    "prompt_embeds": (),
    "repetition_detection": (),
    "return_mm_kwargs": (False,),
    "return_prompt_text": (False,),
    "return_token_offsets": (False,),
    "routed_experts_prompt_start": (0,),
    "thinking_token_budget": (-1,),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    "watermarking": (),
}
"""Fields of vLLM's that would change the answer and are not served, with the values at which they change nothing."""

_NO_OP_VALUES: Final[Mapping[str, tuple[object, ...]]] = {
    **VLLM_NO_OP_VALUES,
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""The same with OpenAI's."""

IGNORED_FIELDS: Final = frozenset(
    {"metadata", "moderation", "prediction", "prompt_cache_key", "prompt_cache_options"}
    | {"prompt_cache_retention", "safety_identifier", "store", "user"}
    | {"length_penalty", "request_id", "session_id", "spaces_between_special_tokens", "stream_interval"}
)
"""Fields of OpenAI's schema that are about its own service, or are hints that cannot change the output; then vLLM's."""


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


Prompts = Annotated[
    list[Any], BeforeValidator(_as_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]])
]
"""One or several of them."""


def _false_as_none(logprobs: object) -> object:
    """The other endpoint's way to ask for none."""
    return None if logprobs is False else logprobs


class StreamOptions(BaseModel):
    """What a stream carries beside the text. Usage in every chunk comes only with usage at the end, as with vLLM."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationBody(SamplingFields, OutputFields):
    """What both endpoints have in common."""

    no_op_values: ClassVar = _NO_OP_VALUES

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    cache_salt: str = Field(default="", max_length=1024)
    deadline_ms: int | None = Field(default=None, ge=1, le=7 * 24 * 3600 * 1000)
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    echo: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    truncation_side: Literal["left", "right"] = "left"

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body. A field that is null counts as absent.

        Raises:
            InvalidRequestError: no JSON object, a value that is out of range, fields that contradict each other, or
                one that is not served.
        """
        fields = read_fields(body)
        refuse_unsupported(fields, cls.no_op_values)
        parsed = validated(cls, fields)
        parsed.check()
        return parsed

    @property
    def output_limit(self) -> int | None:
        """Output tokens at most, if the client says so."""
        return self.max_tokens

    @property
    def num_made(self) -> int:
        """Choices that are computed for each prompt."""
        return self.n

    @property
    def num_top_logprobs(self) -> int | None:
        """Likeliest tokens told beside each output token; None tells no log-probabilities."""
        raise NotImplementedError

    @property
    def num_top_prompt_logprobs(self) -> int | None:
        """The same for the prompt's tokens."""
        return self.prompt_logprobs

    @property
    def detail(self) -> Detail:
        """What is told beside the text."""
        options = self.stream_options or StreamOptions()
        return Detail(
            num_top_logprobs=self.num_top_logprobs,
            prompt_logprobs=self.prompt_logprobs is not None,
            token_ids=self.return_token_ids,
            usage=options.include_usage,
            continuous_usage=options.include_usage and options.continuous_usage_stats,
        )

    def check(self) -> None:
        """See that fields agree which each are right.

        Raises:
            InvalidRequestError: they do not.
        """
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "'stream_options' is only for streams; set 'stream' or leave it out", param="stream_options"
            )
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequestError(
                "'prompt_logprobs' is not available in streams; unset 'stream' or leave it out", param="prompt_logprobs"
            )


class ChatCompletionBody(GenerationBody, Conversation):
    """`POST /v1/chat/completions`."""

    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0)
    include_reasoning: bool = True

    @property
    def output_limit(self) -> int | None:
        """Output tokens at most, if the client says so; the newer name of the field wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_top_logprobs(self) -> int | None:
        """See `GenerationBody`."""
        return self.top_logprobs or 0 if self.logprobs else None

    def check(self) -> None:
        """See `GenerationBody`."""
        super().check()
        self.check_template_fields()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")


class CompletionBody(GenerationBody):
    """`POST /v1/completions`."""

    prompt: Prompts
    max_tokens: int | None = Field(default=None, ge=0)
    logprobs: Annotated[
        Annotated[int, Field(ge=0)] | None,
        BeforeValidator(_false_as_none, json_schema_input_type=int | Literal[False] | None),
    ] = None
    best_of: int | None = Field(default=None, ge=1, le=_MAX_BEST_OF)
    add_special_tokens: bool = True

    @property
    def prompts(self) -> list[Prompt]:
        """Texts, or token ids that have not been checked against the vocabulary."""
        return self.prompt

    @property
    def num_made(self) -> int:
        """See `GenerationBody`."""
        return self.best_of or self.n

    @property
    def num_top_logprobs(self) -> int | None:
        """See `GenerationBody`."""
        return self.logprobs

    @property
    def num_top_prompt_logprobs(self) -> int | None:
        """See `GenerationBody`; an echo tells the prompt's tokens as it tells the output's."""
        return self.logprobs if self.echo and self.prompt_logprobs is None else self.prompt_logprobs

    def check(self) -> None:
        """See `GenerationBody`."""
        super().check()
        if self.num_made < self.n:
            raise InvalidRequestError(f"'best_of' is {self.best_of}, less than the {self.n} of 'n'", param="best_of")
        if self.num_made > self.n and self.stream:
            raise InvalidRequestError("'best_of' larger than 'n' cannot be streamed; unset 'stream'", param="best_of")
