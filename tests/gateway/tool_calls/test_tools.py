"""Tools over HTTP: the model learns what it may call, the client what it calls; a call that must come is enforced."""

import json
from collections.abc import Sequence

import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from shared.packing import unpack_u32
from tests.gateway.chats import (
    LLAMA_TEMPLATE,
    MISTRAL_TEMPLATE,
    QWEN_TEMPLATE,
    THINKING_TEMPLATE,
    allows,
    roomy_gateway,
    tokenizer_with,
    writes,
)
from tests.gateway.conftest import CHAT_TEMPLATE, Running
from tests.gateway.test_api import client, events

MESSAGES = [{"role": "user", "content": "Weather in Paris?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Looks it up",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CHAT = {"model": "tiny", "messages": MESSAGES, "tools": [WEATHER, CLOCK]}
ARGS = '{"city": "Paris", "days": 2}'
CALLS = [("get_weather", ARGS), ("clock", "{}")]
HERMES = "\n".join(f'<tool_call>\n{{"name": "{name}", "arguments": {args}}}\n</tool_call>' for name, args in CALLS)
TEXTS = {
    "hermes": (QWEN_TEMPLATE, HERMES),
    "llama3_json": (
        LLAMA_TEMPLATE,
        f'{{"name": "get_weather", "parameters": {ARGS}}}; {{"name": "clock", "parameters": {{}}}}',
    ),
    "mistral": (MISTRAL_TEMPLATE, f"[TOOL_CALLS]get_weather[ARGS]{ARGS}[TOOL_CALLS]clock[ARGS]{{}}"),
    "in plain text": (CHAT_TEMPLATE, HERMES),
}


def prompt_of(tokenizer: Tokenizer, gateway: Running) -> str:
    return tokenizer.decode(unpack_u32(gateway.pool.submits[-1].prompt).tolist(), shows_special=True)


def folded(chunks: Sequence[dict]) -> dict:
    """What a client puts together from the chunks of one choice."""
    message: dict = {"role": "assistant", "content": None, "tool_calls": [], "finish_reason": None}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        if delta.get("content"):
            message["content"] = (message["content"] or "") + delta["content"]
        for name in ("reasoning", "reasoning_content"):
            if name in delta:
                message[name] = message.get(name, "") + delta[name]
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["type"] == "function"
                assert call["index"] == len(message["tool_calls"])
                message["tool_calls"].append({"name": call["function"]["name"], "arguments": ""})
            message["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        message["finish_reason"] = message["finish_reason"] or choice["finish_reason"]
    return message


@pytest.mark.parametrize("form", TEXTS)
async def test_calls_reach_the_client_whole_and_in_pieces(form: str) -> None:
    template, text = TEXTS[form]
    tokenizer = tokenizer_with(template)
    async with roomy_gateway(tokenizer, writes(tokenizer, text)) as gateway, client(gateway) as api:
        whole = (await api.chat.completions.create(**CHAT)).choices[0]
        assert whole.finish_reason == "tool_calls"
        assert whole.message.content is None
        calls = whole.message.tool_calls
        assert [(call.function.name, call.function.arguments) for call in calls] == CALLS
        assert all(call.type == "function" for call in calls)
        assert len({call.id for call in calls}) == 2
        streamed = folded(events((await gateway.http.post("/v1/chat/completions", json=CHAT | {"stream": True})).text))
        assert [(call["name"], call["arguments"]) for call in streamed["tool_calls"]] == CALLS
        assert (streamed["content"], streamed["finish_reason"]) == (None, "tool_calls")
        assert "get_weather" in prompt_of(tokenizer, gateway)
        assert gateway.pool.submits[-1].sampling.grammar == ""


async def test_the_official_client_assembles_streamed_calls() -> None:
    template, text = TEXTS["hermes"]
    tokenizer = tokenizer_with(template)
    async with roomy_gateway(tokenizer, writes(tokenizer, f"Let me see.\n{text}")) as gateway, client(gateway) as api:
        async with api.chat.completions.stream(**CHAT) as stream:
            kinds = {event.type async for event in stream}
            final = (await stream.get_final_completion()).choices[0]
        assert "tool_calls.function.arguments.delta" in kinds
        assert final.message.content == "Let me see."
        assert [json.loads(call.function.arguments) for call in final.message.tool_calls] == [json.loads(ARGS), {}]


async def test_text_stays_text() -> None:
    tokenizer = tokenizer_with(QWEN_TEMPLATE)
    async with roomy_gateway(tokenizer, writes(tokenizer, "It is sunny. ")) as gateway:
        for body in (CHAT, CHAT | {"tool_choice": "none"}):
            choice = (await gateway.http.post("/v1/chat/completions", json=body)).json()["choices"][0]
            assert choice["message"] == {"role": "assistant", "content": "It is sunny. "}
            assert choice["finish_reason"] == "stop"
        assert "get_weather" not in prompt_of(tokenizer, gateway)  # nothing may be called


async def test_only_one_call_where_several_are_not_wanted() -> None:
    template, text = TEXTS["hermes"]
    tokenizer = tokenizer_with(template)
    async with roomy_gateway(tokenizer, writes(tokenizer, text)) as gateway:
        body = CHAT | {"parallel_tool_calls": False}
        message = (await gateway.http.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_weather"]


@pytest.mark.parametrize("form", TEXTS)
async def test_a_call_that_must_come_is_enforced(form: str) -> None:
    template, text = TEXTS[form]
    tokenizer = tokenizer_with(template)
    async with roomy_gateway(tokenizer, writes(tokenizer, text)) as gateway:

        async def grammar(**fields: object) -> str:
            assert (await gateway.http.post("/v1/chat/completions", json=CHAT | fields)).is_success
            return gateway.pool.submits[-1].sampling.grammar

        required = await grammar(tool_choice="required")
        assert allows(tokenizer, required, text)
        assert not allows(tokenizer, required, "It is sunny.")
        assert not allows(tokenizer, required, text.replace("get_weather", "get_money"))
        assert not allows(tokenizer, required, text.replace('"days": 2', '"days": "two"'))
        assert not allows(tokenizer, await grammar(tool_choice="required", parallel_tool_calls=False), text)
        clock = {"type": "function", "function": {"name": "clock"}}
        some = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [clock]}}
        assert not allows(tokenizer, await grammar(tool_choice=some), text)
        assert "get_weather" in prompt_of(tokenizer, gateway)


async def test_a_named_function_is_called_once_and_ends_as_openai_says() -> None:
    template, text = TEXTS["hermes"]
    tokenizer = tokenizer_with(template)
    one = text.partition("\n<tool_call>")[0]
    async with roomy_gateway(tokenizer, writes(tokenizer, one)) as gateway:
        choice = {"type": "function", "function": {"name": "get_weather"}}
        body = CHAT | {"tool_choice": choice}
        answer = (await gateway.http.post("/v1/chat/completions", json=body)).json()["choices"][0]
        assert answer["finish_reason"] == "stop"
        assert answer["message"]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": ARGS}
        grammar = gateway.pool.submits[-1].sampling.grammar
        assert allows(tokenizer, grammar, one)
        assert not allows(tokenizer, grammar, text)


async def test_strict_tools_are_enforced_among_text() -> None:
    strict = {"type": "function", "function": WEATHER["function"] | {"strict": True}}
    for template, text in TEXTS.values():
        tokenizer = tokenizer_with(template)
        async with roomy_gateway(tokenizer, writes(tokenizer, text)) as gateway:
            await gateway.http.post("/v1/chat/completions", json=CHAT | {"tools": [strict, CLOCK]})
            grammar = gateway.pool.submits[-1].sampling.grammar
            assert allows(tokenizer, grammar, text)
            assert allows(tokenizer, grammar, "It is sunny.")
            assert not allows(tokenizer, grammar, text.replace('"days": 2', '"days": "two"'))


async def test_an_answer_in_a_form_may_be_a_call_instead() -> None:
    template, text = TEXTS["hermes"]
    tokenizer = tokenizer_with(template)
    async with roomy_gateway(tokenizer, writes(tokenizer, '{"a": 1}')) as gateway:
        body = CHAT | {"response_format": {"type": "json_object"}}
        choice = (await gateway.http.post("/v1/chat/completions", json=body)).json()["choices"][0]
        assert choice["message"]["content"] == '{"a": 1}'
        grammar = gateway.pool.submits[-1].sampling.grammar
        assert allows(tokenizer, grammar, text)
        assert allows(tokenizer, grammar, '{"a": 1}')
        assert not allows(tokenizer, grammar, "It is sunny.")


async def test_reasoning_comes_before_calls_and_is_not_bound_by_them() -> None:
    call = TEXTS["hermes"][1]
    tokenizer = tokenizer_with(THINKING_TEMPLATE + "{# </think> #}")
    async with roomy_gateway(tokenizer, writes(tokenizer, f"I'd look it up.\n</think>\n\n{call}")) as gateway:
        body = CHAT | {"tool_choice": "required", "stream": True}
        message = folded(events((await gateway.http.post("/v1/chat/completions", json=body)).text))
        assert message["reasoning"] == message["reasoning_content"] == "I'd look it up."
        assert [(made["name"], made["arguments"]) for made in message["tool_calls"]] == CALLS
        grammar = gateway.pool.submits[-1].sampling.grammar
        assert allows(tokenizer, grammar, f"Hm? {{}}\n</think>\n\n{call}")
        assert not allows(tokenizer, grammar, "Hm?\n</think>\n\nIt is sunny.")


async def test_earlier_calls_and_their_results_are_told_to_any_model() -> None:
    made = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ARGS}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    tokenizer = tokenizer_with(CHAT_TEMPLATE)
    async with roomy_gateway(tokenizer, writes(tokenizer, "Sunny.")) as gateway:
        response = await gateway.http.post("/v1/chat/completions", json=CHAT | {"messages": messages})
        assert response.status_code == 200
        prompt = prompt_of(tokenizer, gateway)
        assert '{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}' in prompt
        assert "<tool_response>\nsunny\n</tool_response>" in prompt
    template = QWEN_TEMPLATE.replace(
        "message.content", "(message.content or message.tool_calls[0].function.arguments.city)"
    )
    tokenizer = tokenizer_with(template)
    async with roomy_gateway(tokenizer, writes(tokenizer, "Sunny.")) as gateway:
        assert (await gateway.http.post("/v1/chat/completions", json=CHAT | {"messages": messages})).status_code == 200
        assert "assistant\nParis" in prompt_of(tokenizer, gateway)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [CLOCK, CLOCK]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        (
            {
                "tools": [CLOCK, {"type": "function", "function": {"name": "f", "parameters": {"type": "strange"}}}],
                "tool_choice": "required",
            },
            "tools[1].function.parameters",
        ),
    ],
)
async def test_what_is_wrong_is_named(fields: dict[str, object], param: str) -> None:
    tokenizer = tokenizer_with(QWEN_TEMPLATE)
    async with roomy_gateway(tokenizer, writes(tokenizer, "")) as gateway:
        response = await gateway.http.post("/v1/chat/completions", json=CHAT | fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert gateway.pool.submits == []


async def test_calls_by_the_models_own_choice_can_be_switched_off() -> None:
    tokenizer = tokenizer_with(QWEN_TEMPLATE)
    async with roomy_gateway(tokenizer, writes(tokenizer, "x"), enable_auto_tool_choice=False) as gateway:
        response = await gateway.http.post("/v1/chat/completions", json=CHAT)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tool_choice")
        assert (await gateway.http.post("/v1/chat/completions", json=CHAT | {"tool_choice": "none"})).is_success
