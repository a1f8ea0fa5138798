"""The tools of a response's body: OpenAI has other words for them here than in chats."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from gateway.protocol.body_parsing import show

ChatFields = dict[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class FunctionTool(_Strict):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def for_chat(self) -> ChatFields:
        """The same in a chat."""
        return {"type": self.type, "function": self.model_dump(exclude={"type"}, exclude_none=True)}


class FunctionChoice(_Strict):
    """One function."""

    type: Literal["function"]
    name: str

    def for_chat(self) -> ChatFields:
        """The same in a chat."""
        return {"type": self.type, "function": {"name": self.name}}


class AllowedChoice(_Strict):
    """Some of the functions."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FunctionChoice] = Field(min_length=1)

    def for_chat(self) -> ChatFields:
        """The same in a chat."""
        allowed = {"mode": self.mode, "tools": [tool.for_chat() for tool in self.tools]}
        return {"type": self.type, "allowed_tools": allowed}


def _functions_only(tools: object) -> object:
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if kind != "function":
            raise PydanticCustomError(
                "content", "Only tools of type 'function' are supported, got {kind}", {"kind": show(kind)}
            )
    return tools


Tools = Annotated[list[FunctionTool], BeforeValidator(_functions_only, json_schema_input_type=list[FunctionTool])]
_Chosen = Annotated[FunctionChoice | AllowedChoice, Field(discriminator="type")]
ToolChoice = Literal["none", "auto", "required"] | _Chosen


def choice_for_chat(choice: ToolChoice) -> str | ChatFields:
    """The same in a chat."""
    return choice if isinstance(choice, str) else choice.for_chat()
