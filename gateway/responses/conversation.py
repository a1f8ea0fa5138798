"""From items to the messages that a chat template reads. Pure."""

from collections.abc import Sequence

from gateway.responses.items import Item

Message = dict[str, object]


def chat_messages(instructions: str | None, items: Sequence[Item]) -> list[Message]:
    """The conversation. Instructions come first, and are no part of it; calls belong to the message before them."""
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "developer", "content": instructions})
    calls: list[Message] | None = None
    for item in items:
        match item["type"]:
            case "message":
                messages.append({"role": item["role"], "content": "\n".join(part["text"] for part in item["content"])})
                calls = None
            case "function_call":
                if calls is None:
                    calls = []
                    if not messages or messages[-1]["role"] != "assistant":
                        messages.append({"role": "assistant", "content": ""})
                    messages[-1]["tool_calls"] = calls
                function = {"name": item["name"], "arguments": item["arguments"]}
                calls.append({"id": item["call_id"], "type": "function", "function": function})
            case "function_call_output":
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
                calls = None
            case _:
                pass  # what was thought is thought anew
    return messages
