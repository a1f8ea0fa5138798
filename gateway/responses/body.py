"""The body of `POST /v1/responses`: OpenAI's fields, each honoured, without effect here, or refused by its name."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.body_parsing import read_fields, refuse_unsupported, validated
from gateway.openai_requests import ChatCompletionBody
from gateway.responses.items import Input
from gateway.sampling_fields import SamplingFields
from shared.errors import InvalidRequestError

_NO_OP_VALUES: Final[Mapping[str, tuple[object, ...]]] = {
    "access_programs": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "prompt": (),
    "reasoning": ({}, {"effort": None}, {"effort": "none"}, {"effort": None, "summary": None}),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
"""Fields that would change the answer and are not served yet, with the values at which they change nothing."""

_EXTENSIONS: Final = frozenset(
    (*SamplingFields.model_fields, "priority", "cache_salt", "chat_template_kwargs", "include_stop_str_in_output")
) - {"n", "prompt_logprobs"}
"""vLLM's fields of chats that a response takes, too."""

_LOGPROBS: Final = "message.output_text.logprobs"

MAX_METADATA_PAIRS: Final = 16

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA_PAIRS),
]
"""What a client remembers with a thing of its own."""


class TextFormat(BaseModel):
    """The form of the output."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"] = "text"


class TextConfig(BaseModel):
    """What the text is to be like."""

    model_config = ConfigDict(strict=True)

    format: TextFormat = TextFormat()
    verbosity: Literal["medium"] | None = None


class ResponseStreamOptions(BaseModel):
    """Accepted; the events have no obfuscation in any case."""

    model_config = ConfigDict(strict=True)

    include_obfuscation: bool = False


class ResponseBody(BaseModel):
    """`POST /v1/responses`. vLLM's sampling fields, as for chats, are taken too."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    no_op_values: ClassVar = _NO_OP_VALUES

    model: str
    input: Input = []
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, max_length=256)
    store: bool = True
    background: bool = False
    stream: bool = False
    stream_options: ResponseStreamOptions = ResponseStreamOptions()
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    truncation: Literal["auto", "disabled"] = "disabled"
    text: TextConfig = TextConfig()
    metadata: Metadata = {}
    include: list[
        Literal[
            "code_interpreter_call.outputs",
            "computer_call_output.output.image_url",
            "file_search_call.results",
            "message.output_text.logprobs",
            "message.input_image.image_url",
            "reasoning.encrypted_content",
            "web_search_call.action.sources",
            "web_search_call.results",
        ]
    ] = []
    service_tier: Literal["auto", "default", "fast", "flex", "priority", "scale", "ultrafast"] = "auto"
    parallel_tool_calls: bool = True
    max_tool_calls: int | None = Field(default=None, ge=1)
    tool_choice: Any = "auto"
    prompt_cache_key: str | None = None
    safety_identifier: str | None = Field(default=None, max_length=128)
    user: str | None = None
    top_logprobs: int = Field(default=0, ge=0, le=20)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body. A field that is null counts as absent.

        Raises:
            InvalidRequestError: no JSON object, a value that is out of range, or a field that is not served.
        """
        fields = read_fields(body)
        refuse_unsupported(fields, cls.no_op_values)
        return validated(cls, fields)

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if not self.input and self.previous_response_id is None:
            raise InvalidRequestError("'input' is missing", param="input")
        if self.background and not self.store:
            raise InvalidRequestError("'background' needs 'store': nobody could ask for the answer", param="store")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """Whether the log-probabilities of the output's tokens are told."""
        return _LOGPROBS in self.include or self.top_logprobs > 0

    def chat(self, messages: list[dict[str, object]]) -> ChatCompletionBody:
        """The chat that this response is.

        Raises:
            InvalidRequestError: a field that both have is wrong.
        """
        extensions = {name: value for name, value in (self.model_extra or {}).items() if name in _EXTENSIONS}
        chat = validated(
            ChatCompletionBody,
            extensions
            | {
                "model": self.model,
                "messages": messages,
                "max_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "seed": self.seed,
                "logprobs": self.wants_logprobs,
                "top_logprobs": self.top_logprobs,
            },
        )
        chat.check()
        return chat
