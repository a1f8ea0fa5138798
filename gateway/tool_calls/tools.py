"""The fields of a body that offer tools, and what they mean."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from shared.errors import InvalidRequestError

_NAME: Final = r"^[a-zA-Z0-9_.\-]{1,64}$"
_NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}


class Tool(NamedTuple):
    """A function that the model may call.

    Attributes:
        param: Where the request defines it.
        parameters: JSON Schema.
        is_strict: Whether its arguments must fit the schema whatever it takes.
        definition: What templates show to the model.
    """

    param: str
    name: str
    description: str
    parameters: Mapping[str, Any]
    is_strict: bool
    definition: dict[str, Any]


class ToolUse(NamedTuple):
    """What a request wants done with tools.

    Attributes:
        shown: Tools that the model is told of.
        callable: Those of them that it may call.
        mode: Whether it decides by itself, must call some, or must call the only one that is left.
        is_parallel: Whether it may call several at once.
    """

    shown: Sequence[Tool]
    callable: Sequence[Tool]
    mode: Literal["auto", "required", "named"]
    is_parallel: bool

    @property
    def is_forced(self) -> bool:
        """Whether a call must come."""
        return self.mode != "auto"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _FunctionBody(_Strict):
    name: str = Field(pattern=_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(_Strict):
    """An entry of `tools`."""

    type: Literal["function"]
    function: _FunctionBody

    def tool(self, param: str) -> Tool:
        """What it means."""
        function = self.function
        fields = {"name": function.name, "description": function.description, "parameters": function.parameters}
        shown = {name: value for name, value in fields.items() if value is not None}
        return Tool(
            param=param,
            name=function.name,
            description=function.description or "",
            parameters=_NO_PARAMETERS if function.parameters is None else function.parameters,
            is_strict=bool(function.strict),
            definition={"type": self.type, "function": shown},
        )


class _NameBody(_Strict):
    name: str


class _NamedChoice(_Strict):
    type: Literal["function"]
    function: _NameBody


class _AllowedTools(_Strict):
    mode: Literal["auto", "required"]
    tools: list[_NamedChoice] = Field(min_length=1)


class _AllowedChoice(_Strict):
    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


def _known_choice(choice: object) -> object:
    kinds = ("function", "allowed_tools")
    if choice in _MODES or (isinstance(choice, dict) and choice.get("type") in kinds):
        return choice
    raise PydanticCustomError(
        "choice", "Input should be 'none', 'auto', 'required', or an object of type 'function' or 'allowed_tools'"
    )


_MODES: Final = ("none", "auto", "required")
_Choice = Annotated[_NamedChoice | _AllowedChoice, Field(discriminator="type")]


class ToolFields(BaseModel):
    """What a chat may say about tools."""

    tools: list[ToolBody] = []
    tool_choice: Annotated[Literal["none", "auto", "required"] | _Choice | None, BeforeValidator(_known_choice)] = None
    parallel_tool_calls: bool = True

    @property
    def tool_use(self) -> ToolUse | None:
        """What is wanted; None if nothing is to be called.

        Raises:
            InvalidRequestError: a tool is chosen that is not offered, or two have the same name.
        """
        tools = [tool.tool(f"tools[{place}].function.parameters") for place, tool in enumerate(self.tools)]
        names = [tool.name for tool in tools]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InvalidRequestError(f"'tools' has {repeated[0]!r} more than once", param="tools")
        match self.tool_choice:
            case "none":
                return None
            case "required":
                self._require(tools)
                return ToolUse(tools, tools, "required", self.parallel_tool_calls)
            case _NamedChoice():
                return ToolUse(tools, self._named(tools, [self.tool_choice]), "named", is_parallel=False)
            case _AllowedChoice():
                allowed = self.tool_choice.allowed_tools
                return ToolUse(tools, self._named(tools, allowed.tools), allowed.mode, self.parallel_tool_calls)
            case _:
                return ToolUse(tools, tools, "auto", self.parallel_tool_calls) if tools else None

    def _require(self, tools: Sequence[Tool]) -> None:
        if not tools:
            raise InvalidRequestError("'tool_choice' asks for a call, but 'tools' is empty", param="tool_choice")

    def _named(self, tools: Sequence[Tool], choices: Sequence[_NamedChoice]) -> list[Tool]:
        self._require(tools)
        by_name = {tool.name: tool for tool in tools}
        names = [choice.function.name for choice in choices]
        if missing := [name for name in names if name not in by_name]:
            raise InvalidRequestError(
                f"'tool_choice' names {missing[0]!r}, which is not among the tools {sorted(by_name)}",
                param="tool_choice",
            )
        return [by_name[name] for name in dict.fromkeys(names)]
