import json

import pytest

from gateway.responses.body import ResponseBody
from gateway.responses.conversation import chat_messages
from shared.errors import InvalidRequestError


def body(**fields: object) -> ResponseBody:
    return ResponseBody.parse(json.dumps({"model": "m", "input": "Hi"} | fields).encode())


def messages(*items: dict) -> list[dict]:
    return chat_messages(None, [item.as_item() for item in body(input=list(items)).input])


def test_calls_belong_to_the_message_before_them_and_outputs_follow() -> None:
    call = {"type": "function_call", "name": "find", "arguments": "{}"}
    found = messages(
        {"role": "user", "content": "Find both."},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        call | {"call_id": "a"},
        call | {"call_id": "b"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
        call | {"call_id": "c"},
    )
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [made["id"] for made in found[1]["tool_calls"]] == ["a", "b"]
    assert found[1]["content"] == "I look."
    assert [(message["tool_call_id"], message["content"]) for message in found[2:4]] == [("a", "1"), ("b", "2")]
    assert found[4]["tool_calls"][0]["function"] == {"name": "find", "arguments": "{}"}


def test_instructions_come_first() -> None:
    assert chat_messages("Be kind.", [])[0] == {"role": "developer", "content": "Be kind."}


def test_a_chat_gets_the_same_tools_and_the_same_form() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "integer"}}}
    asked = body(
        tools=[{"type": "function", "name": "find", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "find"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}},
    )
    chat = asked.chat([{"role": "user", "content": "Hi"}])
    assert chat.tool_use is not None
    assert (chat.tool_use.mode, chat.tool_use.is_parallel) == ("named", False)
    (tool,) = chat.tool_use.callable
    assert (tool.name, tool.parameters, tool.is_strict) == ("find", schema, True)
    assert chat.response_format is not None
    assert chat.response_format.json_schema is not None
    assert chat.response_format.json_schema.content == schema


def test_some_of_the_tools_may_be_allowed() -> None:
    tools = [{"type": "function", "name": name} for name in ("find", "open", "close")]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": tools[:2]}
    chat = body(tools=tools, tool_choice=allowed).chat([{"role": "user", "content": "Hi"}])
    assert chat.tool_use is not None
    assert [tool.name for tool in chat.tool_use.callable] == ["find", "open"]


def test_vllms_sampling_fields_reach_the_chat_and_no_others() -> None:
    chat = body(top_k=3, stop=["x"], n=5, max_tokens=7, echo=True).chat([{"role": "user", "content": "Hi"}])
    assert (chat.top_k, chat.stop, chat.n, chat.max_tokens, chat.echo) == (3, ["x"], 1, None, False)


def test_errors_of_the_chat_have_the_names_that_fields_have_here() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        body(max_output_tokens=5).chat([{"role": "wizard", "content": "Hi"}])
    assert refused.value.param == "input"
