"""The items of a conversation: what clients send, how it is kept, and the messages that the model reads. Pure."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from gateway.body_parsing import show

Item = dict[str, Any]
"""An item as it is kept and listed: OpenAI's JSON."""

_PART_TYPES: Final = ("input_text", "output_text")


def new_id(prefix: str) -> str:
    """An id that nobody has had before."""
    return f"{prefix}_{secrets.token_hex(24)}"


def _as_parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        raise PydanticCustomError("content", "Input should be a string or a list of text parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else part
        if kind not in _PART_TYPES:
            raise PydanticCustomError(
                "content",
                "Only parts of type 'input_text' and 'output_text' are supported, got {kind}",
                {"kind": show(kind)},
            )
    return content


def _as_items(given: object) -> object:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise PydanticCustomError("content", "Input should be a string or a list of items")
    for item in given:
        kind = item.get("type", "message") if isinstance(item, dict) else item
        if kind != "message":
            raise PydanticCustomError(
                "content", "Only items of type 'message' are supported, got {kind}", {"kind": show(kind)}
            )
    return given


class ContentPart(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(strict=True)

    type: Literal["input_text", "output_text"]
    text: str


class MessageItem(BaseModel):
    """A message of a conversation: the client's, or one that the model gave before."""

    model_config = ConfigDict(strict=True)

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[list[ContentPart], BeforeValidator(_as_parts, json_schema_input_type=str | list[ContentPart])]
    id: str | None = Field(default=None, max_length=256)

    def as_item(self) -> Item:
        """The message as it is kept. It has an id from now on."""
        texts = [part.text for part in self.content]
        return message_item(self.id or new_id("msg"), self.role, texts)


Input = Annotated[list[MessageItem], BeforeValidator(_as_items, json_schema_input_type=str | list[MessageItem])]


def message_item(item_id: str, role: str, texts: Sequence[str]) -> Item:
    """A finished message."""
    parts: list[Item] = [
        {"type": "output_text", "text": text, "annotations": []}
        if role == "assistant"
        else {"type": "input_text", "text": text}
        for text in texts
    ]
    return {"id": item_id, "type": "message", "status": "completed", "role": role, "content": parts}


def without_logprobs(item: Item) -> Item:
    """A message of ours as it is continued: nobody wants its log-probabilities again."""
    return item | {"content": [{**part, "logprobs": []} for part in item["content"]]}


def chat_messages(instructions: str | None, items: Sequence[Item]) -> list[dict[str, object]]:
    """What a chat template reads. Instructions come first, and are not part of the conversation."""
    messages: list[dict[str, object]] = []
    if instructions:
        messages.append({"role": "developer", "content": instructions})
    return messages + [
        {"role": item["role"], "content": "\n".join(part["text"] for part in item["content"])} for item in items
    ]
