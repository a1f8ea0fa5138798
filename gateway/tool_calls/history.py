"""Earlier calls and their results in a conversation, as chat templates read them. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.tool_calls.hermes import CLOSE, OPEN

ChatMessage = dict[str, object]
"""`role` and `content`, and whatever else a template may look at."""

_INTRODUCTION: Final = """You can call functions. There are these, each with a JSON schema of its arguments:

{functions}

To call one, answer with its name and arguments as JSON in this form, once for each call:
{open}
{{"name": "the function's name", "arguments": {{"its": "arguments"}}}}
{close}"""
_RESULT: Final = "<tool_response>\n{content}\n</tool_response>"


def as_templates_read(message: ChatMessage) -> ChatMessage:
    """A message with its calls' arguments as values instead of text, and its reasoning under both of its names."""
    changes: ChatMessage = {}
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        changes["tool_calls"] = [_with_values(call) for call in calls]
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if isinstance(reasoning, str):
        changes |= {"reasoning": reasoning, "reasoning_content": reasoning}
    return message | changes


def in_plain_text(messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]] | None) -> list[ChatMessage]:
    """The same conversation for a template that knows nothing of tools.

    Args:
        messages: As a template that knows them reads them.
        tools: Their definitions; the first message introduces them.
    """
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    functions = "\n".join(json.dumps(tool.get("function"), ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(functions=functions, open=OPEN, close=CLOSE)
    if plain and plain[0]["role"] == "system":
        first = plain[0] | {"content": f"{plain[0]['content']}\n\n{introduction}"}
        return [first, *plain[1:]]
    return [{"role": "system", "content": introduction}, *plain]


def _with_values(call: object) -> object:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call  # as the model wrote it, whose answer may have been cut off
    return call | {"function": function | {"arguments": arguments}}


def _plain(message: ChatMessage) -> ChatMessage:
    content = message.get("content") or ""
    if message.get("role") == "tool":
        return {"role": "user", "content": _RESULT.format(content=content)}
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return message
    texts = [f"{OPEN}\n{json.dumps(_function(call), ensure_ascii=False)}\n{CLOSE}" for call in calls]
    return {"role": message["role"], "content": "\n".join([*([str(content)] if content else []), *texts])}


def _function(call: object) -> object:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    return {"name": function.get("name"), "arguments": function.get("arguments")}
