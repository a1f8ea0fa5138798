"""The body of `POST /v1/responses`: OpenAI's fields, each honoured, without effect here, or refused by its name."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.chat.conversation import ReasoningEffort
from gateway.grammars.structured_output import OutputFields
from gateway.protocol.body_parsing import read_fields, refuse_unsupported, validated
from gateway.protocol.openai_requests import VLLM_NO_OP_VALUES, ChatCompletionBody
from gateway.protocol.sampling_fields import SamplingFields
from gateway.responses.items import Input
from gateway.responses.tools import ToolChoice, Tools, choice_for_chat
from gateway.storage.stored_objects import Metadata
from shared.errors import InvalidRequestError

_NO_OP_VALUES: Final[Mapping[str, tuple[object, ...]]] = {
    **VLLM_NO_OP_VALUES,
    "access_programs": (),
    "context_management": ([],),
    "conversation": (),
    "enable_response_messages": (False,),
    "image": (),
    "moderation": (),
    "previous_input_messages": ([],),
    "prompt": (),
}
"""Fields that would change the answer and are not served, with the values at which they change nothing."""

EXTENSIONS: Final = (
    frozenset((*SamplingFields.model_fields, *OutputFields.model_fields))
    | {"cache_salt", "chat_template_kwargs", "include_reasoning", "include_stop_str_in_output", "priority"}
    | {"skip_special_tokens"}
) - {"n", "prompt_logprobs", "response_format"}
"""vLLM's fields of chats that a response takes, too."""

_OF_CHAT: Final = {"max_tokens": "max_output_tokens", "messages": "input", "response_format": "text.format"}
"""What fields of a chat are called here."""

_LOGPROBS: Final = "message.output_text.logprobs"


class TextFormat(BaseModel):
    """The form of the output."""

    model_config = ConfigDict(strict=True, populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    content: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None

    def for_chat(self) -> dict[str, Any]:
        """The same in a chat."""
        if self.type != "json_schema":
            return {"type": self.type}
        return {"type": self.type, "json_schema": self.echo(exclude={"type"})}

    def echo(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """As it was sent."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude=exclude)


class TextConfig(BaseModel):
    """What the text is to be like."""

    model_config = ConfigDict(strict=True)

    format: TextFormat = TextFormat()
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(BaseModel):
    """What the model is told of how to reason. All of its reasoning is told; in later turns it is thought anew."""

    model_config = ConfigDict(strict=True)

    effort: ReasoningEffort | None = None
    mode: Literal["standard"] | None = None
    context: Literal["auto", "current_turn"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class BackgroundOptions(BaseModel):
    """Responses in the background begin as soon as they can."""

    model_config = ConfigDict(strict=True)

    completion_window: Literal["soonest"] = "soonest"
    continuation_id: str | None = None


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
    background_options: BackgroundOptions = BackgroundOptions()
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
    tools: Tools = []
    tool_choice: ToolChoice = "auto"
    reasoning: ReasoningConfig = ReasoningConfig()
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    safety_identifier: str | None = Field(default=None, max_length=128)
    user: str | None = None
    top_logprobs: int = Field(default=0, ge=0, le=20)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)

    def salt_prefix(self, salt: Callable[[str], str]) -> None:
        """Replace the salt with which the prompt's prefix is shared."""
        extra = self.model_extra
        assert extra is not None
        if isinstance(asked := extra.get("cache_salt", ""), str):  # else it is refused with the chat's other fields
            extra["cache_salt"] = salt(asked)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body. A field that is null counts as absent.

        Raises:
            InvalidRequestError: no JSON object, a value that is out of range, or a field that is not served.
        """
        fields = read_fields(body)
        refuse_unsupported(fields, cls.no_op_values)
        try:
            return validated(cls, fields)
        except InvalidRequestError as error:
            raise _without_item_type(error) from error.__cause__

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
        fields = {name: value for name, value in (self.model_extra or {}).items() if name in EXTENSIONS}
        fields |= {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "logprobs": self.wants_logprobs,
            "top_logprobs": self.top_logprobs,
            "tools": [tool.for_chat() for tool in self.tools],
            "tool_choice": choice_for_chat(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "reasoning_effort": self.reasoning.effort,
            "response_format": self.text.format.for_chat(),
        }
        with named_as_here():
            return self._checked(fields)

    @staticmethod
    def _checked(fields: dict[str, Any]) -> ChatCompletionBody:
        chat = validated(ChatCompletionBody, fields)
        chat.check()
        return chat


@contextmanager
def named_as_here() -> Iterator[None]:
    """Give errors about a field of the chat that a response is the name of the field here."""
    try:
        yield
    except InvalidRequestError as error:
        field = re.split(r"[.\[]", error.param or "", maxsplit=1)[0]
        error.param = _OF_CHAT.get(field, error.param)
        raise


def _without_item_type(error: InvalidRequestError) -> InvalidRequestError:
    """An item's type is part of no field's name, as pydantic has it."""
    name = error.param or ""
    short = re.sub(r"^(input\[\d+\])\.[a-z_]+", r"\1", name)
    return InvalidRequestError(error.message.replace(name, short, 1), param=short or None, code=error.code)
