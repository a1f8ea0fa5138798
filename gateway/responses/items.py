"""The items of a conversation as clients send them and as they are kept. Pure."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from gateway.protocol.body_parsing import show
from gateway.storage.stored_objects import new_id

Item = dict[str, Any]
"""An item as it is kept and listed: OpenAI's JSON."""

_TEXT_PARTS: Final = ("input_text", "output_text", "reasoning_text", "summary_text")


def _as_parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        raise PydanticCustomError("content", "Input should be a string or a list of text parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else part
        if kind not in _TEXT_PARTS:
            raise PydanticCustomError(
                "content", "Only parts of text, such as 'input_text', are supported, got {kind}", {"kind": show(kind)}
            )
    return content


class ContentPart(BaseModel):
    """A piece of text."""

    model_config = ConfigDict(strict=True)

    type: Literal["input_text", "output_text", "reasoning_text", "summary_text"]
    text: str


Content = Annotated[list[ContentPart], BeforeValidator(_as_parts, json_schema_input_type=str | list[ContentPart])]
ItemId = Annotated[str | None, Field(max_length=256)]


class _InputItem(BaseModel):
    model_config = ConfigDict(strict=True)

    id: ItemId = None


class MessageItem(_InputItem):
    """A message: the client's, or one that the model gave before."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content

    def as_item(self) -> Item:
        """The message as it is kept. It has an id from now on."""
        return message_item(self.id or new_id("msg_"), self.role, [part.text for part in self.content])


class FunctionCallItem(_InputItem):
    """A call that the model made before."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=256)
    name: str
    arguments: str

    def as_item(self) -> Item:
        """The call as it is kept."""
        return call_item(self.id or new_id("fc_"), self.call_id, self.name, self.arguments, status="completed")


class FunctionOutputItem(_InputItem):
    """What a call returned."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=256)
    output: Content

    def as_item(self) -> Item:
        """The output as it is kept."""
        text = "\n".join(part.text for part in self.output)
        item_id = self.id or new_id("fco_")
        return {"id": item_id, "type": self.type, "call_id": self.call_id, "output": text, "status": "completed"}


class ReasoningItem(_InputItem):
    """What the model thought before. It is kept, and not shown to the model again."""

    type: Literal["reasoning"]
    summary: list[ContentPart] = []
    content: list[ContentPart] | None = None

    def as_item(self) -> Item:
        """The reasoning as it is kept."""
        return reasoning_item(self.id or new_id("rs_"), "".join(part.text for part in self.content or self.summary))


InputItem = MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningItem
_KINDS: Final[Mapping[str, type[InputItem]]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionOutputItem,
    "reasoning": ReasoningItem,
}


def _as_items(given: object) -> object:
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list):
        raise PydanticCustomError("content", "Input should be a string or a list of items")
    return [_with_type(item) for item in given]


def _with_type(item: object) -> object:
    if not isinstance(item, dict):
        raise PydanticCustomError("content", "Items should be objects, got {item}", {"item": show(item)})
    kind = item.get("type", "message")
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(map(repr, _KINDS))
        raise PydanticCustomError(
            "content", "Only items of type {known} are supported, got {kind}", {"known": known, "kind": show(kind)}
        )
    return {name: value for name, value in item.items() if value is not None} | {"type": kind}


Input = Annotated[
    list[Annotated[InputItem, Field(discriminator="type")]],
    BeforeValidator(_as_items, json_schema_input_type=str | list[InputItem]),
]


def message_item(item_id: str, role: str, texts: Sequence[str]) -> Item:
    """A finished message."""
    parts: list[Item] = [
        {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        if role == "assistant"
        else {"type": "input_text", "text": text}
        for text in texts
    ]
    return {"id": item_id, "type": "message", "status": "completed", "role": role, "content": parts}


def call_item(item_id: str, call_id: str, name: str, arguments: str, *, status: str) -> Item:
    """A call of a function."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def reasoning_item(item_id: str, text: str, *, status: str = "completed") -> Item:
    """Reasoning. There is no summary: it is told itself."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


def without_logprobs(item: Item) -> Item:
    """An item of ours as it is continued: nobody wants its log-probabilities again."""
    if item["type"] != "message":
        return item
    return item | {"content": [{**part, "logprobs": []} for part in item["content"]]}
