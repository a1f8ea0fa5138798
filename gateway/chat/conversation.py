"""The fields of a body that make a prompt of a conversation."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.protocol.body_parsing import show
from gateway.tokenizers.chat_template import Rendering
from gateway.tool_calls.history import as_templates_read
from gateway.tool_calls.tools import ToolFields
from shared.errors import InvalidRequestError


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


class TextPart(BaseModel):
    """A piece of a message's content, as clients send it."""

    type: Literal["text"]
    text: str


class ChatMessageBody(BaseModel):
    """One message. Content given as text parts is their text, one part a line; further fields go to the template."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str, BeforeValidator(_text_of_content, json_schema_input_type=str | list[TextPart])]

    @model_validator(mode="before")
    @classmethod
    def _assistant_may_be_silent(cls, fields: object) -> object:
        """An assistant's message that only calls a tool has no content."""
        if isinstance(fields, dict) and fields.get("role") == "assistant" and fields.get("content") is None:
            return fields | {"content": ""}
        return fields


_TEMPLATE_FIELDS: Final = frozenset(
    {"messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message"}
    | {"conversations", "return_assistant_tokens_mask"}
)
"""What the request has fields of its own for, and what rendering takes under these names."""

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much a model is to reason before it answers, if its template has a way to tell it."""


class Conversation(ToolFields):
    """Messages, and how the model's template is to render them. Names beside OpenAI's are vLLM's."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    messages: list[ChatMessageBody] = Field(min_length=1)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = Field(default=None, min_length=1)
    chat_template_kwargs: dict[str, Any] = Field(default={})
    reasoning_effort: ReasoningEffort | None = None

    @property
    def rendering(self) -> Rendering:
        """What the template is told beside the messages."""
        use = self.tool_use
        return Rendering(
            tools=[tool.definition for tool in use.shown] if use else None,
            opens_answer=not self.continue_final_message and self.add_generation_prompt is not False,
            continues_message=self.continue_final_message,
            documents=self.documents,
            variables=self._effort | self.chat_template_kwargs,
        )

    @property
    def _effort(self) -> dict[str, Any]:
        """The effort under both names by which templates ask for it; others are not disturbed."""
        effort = self.reasoning_effort
        return {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}

    @property
    def template_messages(self) -> list[dict[str, object]]:
        """The messages as a template reads them; it knows the role "developer" by its older name."""
        messages = [as_templates_read(message.model_dump()) for message in self.messages]
        return [message | {"role": "system"} if message["role"] == "developer" else message for message in messages]

    def check_template_fields(self) -> None:
        """See that fields agree which each are right.

        Raises:
            InvalidRequestError: they do not.
        """
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequestError(
                "'continue_final_message' and 'add_generation_prompt' contradict each other; leave one out",
                param="continue_final_message",
            )
        _check_template_kwargs(self.chat_template_kwargs)


def _check_template_kwargs(kwargs: Mapping[str, object]) -> None:
    for name in kwargs.keys() & _TEMPLATE_FIELDS:
        raise InvalidRequestError(
            f"'chat_template_kwargs' holds {name!r}, which is a field of the request; set it there",
            param="chat_template_kwargs",
        )
