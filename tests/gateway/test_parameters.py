"""What the API's fields do beside choosing tokens."""

import json

import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from shared.packing import unpack_u32
from tests.gateway.conftest import EOS, Running, running_gateway, says
from tests.gateway.test_api import CHAT, client, events

TEXT = {"model": "tiny", "prompt": "Hi you"}


async def post(gateway: Running, path: str, body: dict) -> dict:
    response = await gateway.http.post(f"/v1/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def refusal(gateway: Running, path: str, body: dict) -> str | None:
    response = await gateway.http.post(f"/v1/{path}", json=body)
    assert response.status_code == 400, response.text
    return response.json()["error"]["param"]


async def test_parameters_become_what_the_worker_needs(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("ok")) as gateway:
        fields = {
            "logit_bias": {"5": -1.5, "7": 3}, "allowed_token_ids": [9, 8, 9], "bad_words": ["ab", " c"],
            "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.5, "min_p": 0.1, "top_k": -1,
            "logprobs": 3, "prompt_logprobs": 2,
        }  # fmt: skip
        await post(gateway, "completions", TEXT | fields)
        sampling = gateway.pool.submits[0].sampling
        assert sampling.logit_bias == ((5, -1.5), (7, 3.0))
        assert sampling.allowed_token_ids == (9, 8)
        assert sampling.bad_words == (tuple(b"ab"), tuple(b" ab"), tuple(b"c"), tuple(b" c"))
        assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -0.5, 1.5)
        assert (sampling.min_p, sampling.top_k, sampling.logprobs, sampling.prompt_logprobs) == (0.1, 0, 3, 2)
        for field in ("logit_bias", "allowed_token_ids", "stop_token_ids"):
            value = {"258": 1} if field == "logit_bias" else [258]
            assert await refusal(gateway, "completions", TEXT | {field: value}) == field


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
async def test_what_ended_an_answer_is_told(byte_tokenizer: Tokenizer, path: str) -> None:
    async with running_gateway(byte_tokenizer, says("abcd")) as gateway:
        body = TEXT if path == "completions" else CHAT
        for fields, reasons in (
            ({}, ("stop", None)),
            ({"max_tokens": 2}, ("length", None)),
            ({"stop": ["x", "c"]}, ("stop", "c")),
            ({"stop_token_ids": [ord("b")]}, ("stop", ord("b"))),
            ({"stop_token_ids": [ord("b")], "stop": ["a"]}, ("stop", "a")),
        ):
            (choice,) = (await post(gateway, path, body | fields))["choices"]
            assert (choice["finish_reason"], choice["stop_reason"]) == reasons
            response = await gateway.http.post(f"/v1/{path}", json=body | fields | {"stream": True})
            last = events(response.text)[-1]["choices"][0]
            assert (last["finish_reason"], last["stop_reason"]) == reasons


async def test_what_stops_a_text_may_be_part_of_it(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abcd")) as gateway:
        for fields, text in (
            ({"stop": "c"}, "abc"),
            ({"stop_token_ids": [ord("b")]}, "ab"),
            ({}, "abcd"),
            ({"skip_special_tokens": False}, "abcd<|im_end|>"),
        ):
            body = TEXT | fields | {"include_stop_str_in_output": True}
            assert (await post(gateway, "completions", body))["choices"][0]["text"] == text
            response = await gateway.http.post("/v1/completions", json=body | {"stream": True})
            assert "".join(chunk["choices"][0]["text"] for chunk in events(response.text)) == text


async def test_stop_strings_count_after_the_least_number_of_tokens(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("a.b.c.")) as gateway:
        body = TEXT | {"stop": ".", "min_tokens": 3}
        assert (await post(gateway, "completions", body))["choices"][0]["text"] == "a.b"


@pytest.mark.parametrize("stream", [False, True])
async def test_token_ids_are_told(byte_tokenizer: Tokenizer, stream: bool) -> None:
    async with running_gateway(byte_tokenizer, says("ü!")) as gateway:
        output = [*"ü!".encode(), EOS]
        for path, body in (("completions", TEXT), ("chat/completions", CHAT)):
            body = body | {"return_token_ids": True, "n": 2, "stream": stream}  # noqa: PLW2901
            response = await gateway.http.post(f"/v1/{path}", json=body)
            chunks = events(response.text) if stream else [response.json()]
            prompts = [chunk["prompt_token_ids"] for chunk in chunks if "prompt_token_ids" in chunk]
            ids: list[list[int]] = [[], []]
            for choice in (choice for chunk in chunks for choice in chunk["choices"]):
                ids[choice["index"]] += choice.get("token_ids", [])
                prompts += [choice["prompt_token_ids"]] if "prompt_token_ids" in choice else []
            assert ids == [output, output]
            sent = list(unpack_u32(gateway.pool.submits[-1].prompt))
            assert prompts
            assert all(prompt == sent for prompt in prompts)


async def test_usage_may_come_with_every_chunk(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        options = {"include_usage": True, "continuous_usage_stats": True}
        response = await gateway.http.post("/v1/completions", json=TEXT | {"stream": True, "stream_options": options})
        counts = [chunk["usage"]["completion_tokens"] for chunk in events(response.text)]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (1, 4)
        # As with vLLM, it takes the one at the end to have those before.
        options["include_usage"] = False
        response = await gateway.http.post("/v1/completions", json=TEXT | {"stream": True, "stream_options": options})
        assert all("usage" not in chunk for chunk in events(response.text))


async def test_an_answer_names_the_system_and_the_tier_behind_it(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway, client(gateway) as api:
        message = {"role": "user", "content": "Hi"}
        first = await api.chat.completions.create(model="tiny", messages=[message])
        assert first.system_fingerprint.startswith("fp_")
        assert first.service_tier is None
        second = await api.chat.completions.create(
            model="tiny", messages=[message], service_tier="auto", user="me", metadata={"a": "b"}, store=True,
            safety_identifier="x", prompt_cache_key="y",
        )  # fmt: skip
        assert second.system_fingerprint == first.system_fingerprint
        assert second.service_tier == "default"


async def test_a_model_has_as_many_names_as_it_was_given(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc"), served_model_name=("one", "two")) as gateway:
        for name in ("one", "two"):
            assert (await post(gateway, "completions", TEXT | {"model": name}))["model"] == name
        assert (await gateway.http.post("/v1/completions", json=TEXT)).status_code == 404
        assert [card["id"] for card in (await gateway.http.get("/v1/models")).json()["data"]] == ["one", "two"]


async def prompt_of(gateway: Running, path: str, body: dict) -> str:
    await post(gateway, path, body)
    return bytes(token for token in unpack_u32(gateway.pool.submits[-1].prompt) if token < 256).decode()


async def test_a_long_prompt_may_be_cut(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("a")) as gateway:
        body = {"model": "tiny", "prompt": "abcdef", "truncate_prompt_tokens": 2}
        assert await prompt_of(gateway, "completions", body) == "ef"
        assert await prompt_of(gateway, "completions", body | {"truncation_side": "right"}) == "ab"
        assert await prompt_of(gateway, "completions", body | {"truncate_prompt_tokens": 9}) == "abcdef"
        long = body | {"prompt": "x" * 300 + "y", "truncate_prompt_tokens": -1, "max_tokens": 6}
        assert await prompt_of(gateway, "completions", long) == "x" * 249 + "y"
        assert (await post(gateway, "completions", body | {"echo": True}))["choices"][0]["text"] == "efa"
        assert await refusal(gateway, "completions", body | {"truncate_prompt_tokens": 0}) == "prompt"


async def test_a_message_may_be_continued(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says(" is.")) as gateway:
        messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "It"}]
        body = {"model": "tiny", "messages": messages, "continue_final_message": True}
        assert await prompt_of(gateway, "chat/completions", body) == "user\nQ\nassistant\nIt"
        answer = await post(gateway, "chat/completions", body | {"echo": True})
        assert answer["choices"][0]["message"]["content"] == "It is."
        both = body | {"add_generation_prompt": True}
        assert await refusal(gateway, "chat/completions", both) == "continue_final_message"
        plain = CHAT | {"add_generation_prompt": False}
        assert await prompt_of(gateway, "chat/completions", plain) == "user\nHi\n"


OWN = "{{ shout }}{% for d in documents or [] %}[{{ d.title }}]{% endfor %}{{ messages[0].content }}"


async def test_a_template_is_brought_only_where_that_is_trusted(byte_tokenizer: Tokenizer) -> None:
    body = CHAT | {"chat_template": OWN, "chat_template_kwargs": {"shout": "Oh!"}, "documents": [{"title": "T"}]}
    async with running_gateway(byte_tokenizer, says("a")) as gateway:
        assert await refusal(gateway, "chat/completions", body) == "chat_template"
        smuggled = CHAT | {"chat_template_kwargs": {"chat_template": OWN}}
        assert await refusal(gateway, "chat/completions", smuggled) == "chat_template_kwargs"
    async with running_gateway(byte_tokenizer, says("a"), trust_request_chat_template=True) as gateway:
        assert await prompt_of(gateway, "chat/completions", body) == "Oh![T]Hi"
        assert await refusal(gateway, "chat/completions", body | {"chat_template": "{% if %}"}) == "chat_template"
        reaching = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
        assert await refusal(gateway, "chat/completions", body | {"chat_template": reaching}) == "messages"


async def test_bodies_are_what_json_says(byte_tokenizer: Tokenizer) -> None:
    """No text and no number that the fields allow makes something that is no JSON."""
    async with running_gateway(byte_tokenizer, says('"\\\u2028\x00')) as gateway:
        body = TEXT | {"logprobs": 2, "echo": True, "stream": True, "prompt": '"\\\x00'}
        for chunk in events((await gateway.http.post("/v1/completions", json=body)).text):
            assert json.loads(json.dumps(chunk, allow_nan=False)) == chunk
