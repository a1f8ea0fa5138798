"""/v1/responses through the official client, which checks every answer strictly."""

import asyncio
import json

import msgspec
import openai
import pytest

from gateway.settings import GatewaySettings
from gateway.storage.archives import Archives
from gateway.tokenizers.tokenizer import Tokenizer
from shared.memory_bus import MemoryBus
from shared.messages import Fault
from tests.gateway.conftest import EOS, Running, eventually, running_gateway, says
from tests.gateway.scripted_pool import STATUS, Answer

PROMPT = "<user\nHi>\n<assistant\n"


def client(gateway: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=0, timeout=20, _strict_response_validation=True
    )


def prompts(gateway: Running) -> list[str]:
    return [
        bytes(submit.prompt[i] if submit.prompt[i + 1] == 0 else ord("<>"[submit.prompt[i]])
              for i in range(0, len(submit.prompt), 4)).decode()
        for submit in gateway.pool.submits
    ]  # fmt: skip


def waits_after(num_tokens: int, released: asyncio.Event) -> Answer:
    """Says "abcdef", and waits in the middle for the test."""
    tokens = [*b"abcdef", EOS]
    return lambda _submit, _choice, position: tokens[position] if position < num_tokens or released.is_set() else None


async def test_a_response_is_made_kept_listed_and_deleted(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("Grüß Gott 🎉")) as gateway, client(gateway) as api:
        made = await api.responses.create(
            model="tiny", input="Hi", instructions="Be kind.", metadata={"of": "mine"}, temperature=0.5, top_p=0.9
        )
        assert made.output_text == "Grüß Gott 🎉"
        assert made.status == "completed"
        assert made.usage is not None
        assert made.usage.output_tokens == len("Grüß Gott 🎉".encode()) + 1
        assert made.usage.input_tokens == len("<developer\nBe kind.>\n") - len("developer") + len("system") + len(
            PROMPT
        )
        assert made.metadata == {"of": "mine"}
        assert (made.temperature, made.top_p, made.instructions) == (0.5, 0.9, "Be kind.")
        assert await api.responses.retrieve(made.id) == made
        items = await api.responses.input_items.list(made.id)
        assert [(item.role, item.content[0].text) for item in items.data] == [("user", "Hi")]
        await api.responses.delete(made.id)
        for call in (api.responses.retrieve, api.responses.delete, api.responses.cancel):
            with pytest.raises(openai.NotFoundError, match="not found"):
                await call(made.id)


async def test_a_response_as_the_client_streams_it(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("Grüß Gott")) as gateway, client(gateway) as api:
        stream = await api.responses.create(model="tiny", input="Hi", stream=True)
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Grüß Gott"
        assert await api.responses.retrieve(events[0].response.id) == events[-1].response
        async with api.responses.stream(model="tiny", input="Hi") as helper:
            final = await helper.get_final_response()
        assert final.output_text == "Grüß Gott"


async def test_a_conversation_goes_on_at_any_gateway(byte_tokenizer: Tokenizer) -> None:
    bus, archives = MemoryBus(), Archives.in_memory(GatewaySettings(pool="p", model="tiny"))
    async with running_gateway(byte_tokenizer, says("one"), bus, archives) as gateway, client(gateway) as api:
        first = await api.responses.create(model="tiny", input="Hi", instructions="Once.")
    async with running_gateway(byte_tokenizer, says("two"), bus, archives) as gateway, client(gateway) as api:
        second = await api.responses.create(
            model="tiny", previous_response_id=first.id, input=[{"role": "user", "content": "And?"}]
        )
        await api.responses.delete(first.id)
        third = await api.responses.create(model="tiny", previous_response_id=second.id, input="So?")
        assert third.previous_response_id == second.id
        assert prompts(gateway) == [
            "<user\nHi>\n<assistant\none>\n<user\nAnd?>\n<assistant\n",
            "<user\nHi>\n<assistant\none>\n<user\nAnd?>\n<assistant\ntwo>\n<user\nSo?>\n<assistant\n",
        ]
        page = await api.responses.input_items.list(third.id, order="asc", limit=2)
        assert [item.role for item in page.data] == ["user", "assistant"]
        assert page.has_more
        rest = [item.content[0].text async for item in await api.responses.input_items.list(third.id, limit=2)]
        assert rest == ["So?", "two", "And?", "one", "Hi"]
        with pytest.raises(openai.BadRequestError) as refused:
            await api.responses.create(model="tiny", previous_response_id=first.id, input="Hi")
        assert refused.value.param == "previous_response_id"
        assert refused.value.code == "previous_response_not_found"


async def test_what_is_not_to_be_kept_is_not(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("one")) as gateway, client(gateway) as api:
        made = await api.responses.create(model="tiny", input="Hi", store=False)
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(made.id)


async def test_an_answer_that_reaches_its_limit_is_incomplete(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abcdef")) as gateway, client(gateway) as api:
        made = await api.responses.create(model="tiny", input="Hi", max_output_tokens=3)
        assert (made.status, made.output_text) == ("incomplete", "abc")
        assert made.incomplete_details is not None
        assert made.incomplete_details.reason == "max_output_tokens"


async def test_truncation_drops_the_oldest_items(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("one")) as gateway, client(gateway) as api:
        items = [{"role": "user", "content": f"{i}" * 20} for i in range(10)]
        with pytest.raises(openai.BadRequestError) as refused:
            await api.responses.create(model="tiny", input=items, max_output_tokens=10)
        assert (refused.value.param, refused.value.code) == ("input", "context_length_exceeded")
        made = await api.responses.create(
            model="tiny", input=items, max_output_tokens=10, truncation="auto", instructions="Be brief."
        )
        listed = await api.responses.input_items.list(made.id, order="asc")
        kept = [item.content[0].text[0] for item in listed.data]
        assert kept == [str(i) for i in range(10 - len(kept), 10)]
        assert len(kept) == 7  # of 28 tokens each, beside 18 + 11 + 10, in 256
        assert prompts(gateway)[0].startswith("<system\nBe brief.>\n<user\n3333")
        with pytest.raises(openai.BadRequestError):
            await api.responses.create(model="tiny", input="x" * 300, truncation="auto")


async def test_a_response_in_the_background_needs_no_client(byte_tokenizer: Tokenizer) -> None:
    released = asyncio.Event()
    async with running_gateway(byte_tokenizer, waits_after(3, released)) as gateway, client(gateway) as api:
        queued = await api.responses.create(model="tiny", input="Hi", background=True)
        assert queued.status == "queued"
        stream = await api.responses.retrieve(queued.id, stream=True)
        seen = []
        async for event in stream:
            seen.append(event)
            if "".join(e.delta for e in seen if e.type == "response.output_text.delta") == "abc":
                break
        await stream.close()
        assert (await api.responses.retrieve(queued.id)).status == "in_progress"
        with pytest.raises(openai.BadRequestError, match="in_progress"):
            await api.responses.create(model="tiny", input="Hi", previous_response_id=queued.id)
        released.set()
        rest = [
            event
            async for event in await api.responses.retrieve(
                queued.id, stream=True, starting_after=seen[-1].sequence_number
            )
        ]
        numbers = [event.sequence_number for event in [*seen, *rest]]
        assert numbers == list(range(len(numbers)))
        assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
        assert rest[-1].type == "response.completed"
        made = await api.responses.retrieve(queued.id)
        assert made == rest[-1].response
        assert made.output_text == "abcdef"
        assert made.background
        assert (await api.responses.cancel(queued.id)) == made


async def test_a_client_may_listen_to_its_own_response_in_the_background(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("one")) as gateway, client(gateway) as api:
        events = [e async for e in await api.responses.create(model="tiny", input="Hi", background=True, stream=True)]
        assert events[-1].response.output_text == "one"
        again = [e async for e in await api.responses.retrieve(events[0].response.id, stream=True)]
        assert again == events


async def test_cancelling_ends_the_response_its_streams_and_its_tokens(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, waits_after(3, asyncio.Event())) as gateway, client(gateway) as api:
        queued = await api.responses.create(model="tiny", input="Hi", background=True)

        async def listen() -> list[str]:
            return [event.type async for event in await api.responses.retrieve(queued.id, stream=True)]

        listening = asyncio.create_task(listen())
        await eventually(lambda: len(gateway.pool.submits) == 1)
        cancelled = await api.responses.cancel(queued.id)
        assert cancelled.status == "cancelled"
        assert (await api.responses.cancel(queued.id)).status == "cancelled"
        assert (await api.responses.retrieve(queued.id)).status == "cancelled"
        await eventually(lambda: len(gateway.pool.cancels) == 1)
        assert "response.completed" not in await listening
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            await api.responses.create(model="tiny", input="Hi", previous_response_id=queued.id)


async def test_deleting_ends_a_response_that_is_being_made(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, waits_after(3, asyncio.Event())) as gateway, client(gateway) as api:
        queued = await api.responses.create(model="tiny", input="Hi", background=True)
        await eventually(lambda: len(gateway.pool.submits) == 1)
        await api.responses.delete(queued.id)
        await eventually(lambda: len(gateway.pool.cancels) == 1)


async def test_only_responses_in_the_background_are_cancelled_and_streamed_again(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("one")) as gateway, client(gateway) as api:
        made = await api.responses.create(model="tiny", input="Hi")
        with pytest.raises(openai.BadRequestError, match="background"):
            await api.responses.cancel(made.id)
        with pytest.raises(openai.BadRequestError, match="background"):
            await api.responses.retrieve(made.id, stream=True)


async def test_another_gateway_goes_on_with_exactly_the_missing_text(byte_tokenizer: Tokenizer) -> None:
    bus, archives = MemoryBus(), Archives.in_memory(GatewaySettings(pool="p", model="tiny"))
    released = asyncio.Event()
    never = asyncio.Event()
    async with running_gateway(byte_tokenizer, waits_after(3, never), bus, archives) as gateway, client(gateway) as api:
        queued = await api.responses.create(model="tiny", input="Hi", background=True, extra_body={"seed": 7})
        await eventually(lambda: len(gateway.pool.submits) == 1)
        await asyncio.sleep(0.1)
    released.set()
    async with (
        running_gateway(byte_tokenizer, waits_after(0, released), bus, archives) as gateway,
        client(gateway) as api,
    ):
        events = [event async for event in await api.responses.retrieve(queued.id, stream=True)]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "abcdef"
        assert events[-1].response.output_text == "abcdef"
        assert gateway.pool.submits[-1].sampling.seed == 7
        assert gateway.pool.submits[-1].request_id != queued.id


async def test_a_fault_of_the_pool_fails_the_response(byte_tokenizer: Tokenizer) -> None:
    def fails(submit: object, choice: int, position: int) -> int | Fault:
        return ord("a") if position < 2 else Fault(0, 500, "no finite score")

    async with running_gateway(byte_tokenizer, fails) as gateway, client(gateway) as api:
        with pytest.raises(openai.InternalServerError, match="no finite score"):
            await api.responses.create(model="tiny", input="Hi")
        events = [event async for event in await api.responses.create(model="tiny", input="Hi", stream=True)]
        assert events[-1].type == "response.failed"
        assert events[-1].response.error.message == "no finite score"
        queued = await api.responses.create(model="tiny", input="Hi", background=True)
        events = [event async for event in await api.responses.retrieve(queued.id, stream=True)]
        assert events[-1].type == "response.failed"
        assert (await api.responses.retrieve(queued.id)).status == "failed"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": None}, "input", "missing"),
        ({"input": []}, "input", "missing"),
        ({"input": 5}, "input", "string or a list"),
        ({"input": [{"type": "function_call", "call_id": "1"}]}, "input[0].name", "required"),
        ({"input": [{"type": "web_search_call"}]}, "input", "'web_search_call'"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role", "wizard"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content", "'input_image'"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than"),
        ({"max_output_tokens": 5000}, "input", "maximum context length"),
        ({"tools": [{"type": "web_search"}]}, "tools", "'web_search'"),
        ({"tool_choice": "required"}, "tool_choice", "empty"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort", "much"),
        ({"background_options": {"completion_window": "8h"}}, "background_options.completion_window", "soonest"),
        ({"watermarking": {}}, "watermarking", "not supported"),
        ({"conversation": "conv_1"}, "conversation", "not supported"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "not supported"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "xml"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}}, "text.format", "no"),
        ({"include": ["everything"]}, "include[0]", "everything"),
        ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"truncation": "maybe"}, "truncation", "maybe"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "16"),
        ({"background": True, "store": False}, "store", "background"),
        ({"min_p": 7}, "min_p", "less than or equal to 1"),
    ],
)
async def test_what_is_wrong_is_named(byte_tokenizer: Tokenizer, fields: dict, param: str, words: str) -> None:
    async with running_gateway(byte_tokenizer, says("one")) as gateway:
        body = {"model": "tiny", "input": "Hi"} | fields
        response = await gateway.http.post("/v1/responses", json=body)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"] == param, error
        assert words in error["message"], error


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "order=up", "limit=x"])
async def test_a_wrong_query_is_a_400(byte_tokenizer: Tokenizer, query: str) -> None:
    async with running_gateway(byte_tokenizer, says("one")) as gateway:
        made = (await gateway.http.post("/v1/responses", json={"model": "tiny", "input": "Hi"})).json()
        response = await gateway.http.get(f"/v1/responses/{made['id']}/input_items?{query}")
        assert response.status_code == 400
        assert response.json()["error"]["param"] == query.partition("=")[0]


async def test_fields_without_effect_are_taken_and_echoed(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("one")) as gateway, client(gateway) as api:
        made = await api.responses.create(
            model="tiny",
            input="Hi",
            parallel_tool_calls=False,
            service_tier="flex",
            prompt_cache_key="k",
            prompt_cache_retention="24h",
            safety_identifier="s",
            user="u",
            max_tool_calls=3,
            include=["reasoning.encrypted_content"],
            tools=[],
            tool_choice="none",
            text={"format": {"type": "text"}},
            top_logprobs=0,
            stream_options=None,
            extra_body={"top_k": 3, "cache_salt": "pepper", "no_such_field": 1},
        )
        assert (made.parallel_tool_calls, made.service_tier, made.tool_choice) == (False, "default", "none")
        assert (made.prompt_cache_key, made.safety_identifier, made.user, made.max_tool_calls) == ("k", "s", "u", 3)
        assert made.prompt_cache_retention == "24h"
        assert gateway.pool.submits[0].sampling.top_k == 3
        assert gateway.pool.submits[0].cache_salt == "pepper"


async def test_the_archive_bounds_what_is_kept(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("one"), max_response_store_bytes=4000) as gateway:
        made = []
        for _ in range(6):
            response = await gateway.http.post("/v1/responses", json={"model": "tiny", "input": "Hi"})
            made.append(json.loads(response.content)["id"])
        found = [(await gateway.http.get(f"/v1/responses/{name}")).status_code for name in made]
        assert found[-1] == 200
        assert found[0] == 404
        assert found == sorted(found, reverse=True)


TOOL = {"type": "function", "name": "find", "parameters": {"type": "object", "properties": {"q": {"type": "integer"}}}}
CALL = 'I look.\n<tool_call>\n{"name": "find", "arguments": {"q": 1}}\n</tool_call>'


async def test_a_call_is_an_item_and_its_result_is_answered(byte_tokenizer: Tokenizer) -> None:
    parser = {"tool_call_parser": "hermes"}
    async with running_gateway(byte_tokenizer, says(CALL), **parser) as gateway, client(gateway) as api:
        gateway.pool.status = msgspec.structs.replace(STATUS, max_model_len=2048)  # the tools are told in the prompt
        await eventually(lambda: gateway.app._gateway.max_model_len() == 2048)
        stream = await api.responses.create(model="tiny", input="Find.", tools=[TOOL], stream=True)
        events = [event async for event in stream]
        made = events[-1].response
        message, call = made.output
        assert message.content[0].text == "I look."
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "find", {"q": 1})
        assert made.tools[0].name == "find"
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == call.arguments
        whole = await api.responses.create(model="tiny", input="Find.", tools=[TOOL])
        assert json.loads(whole.output[1].arguments) == {"q": 1}
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "one"}
        await api.responses.create(model="tiny", previous_response_id=made.id, input=[output], tools=[TOOL])
        assert "one" in prompts(gateway)[-1]
        assert "I look." in prompts(gateway)[-1]
        listed = await api.responses.input_items.list(made.id)
        assert [item.type for item in listed.data] == ["message"]
