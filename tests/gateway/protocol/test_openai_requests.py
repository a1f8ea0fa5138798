import json

import pytest

from gateway.protocol.openai_requests import ChatCompletionBody, CompletionBody
from shared.errors import InvalidRequestError

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


def parse_chat(**fields: object) -> ChatCompletionBody:
    return ChatCompletionBody.parse(json.dumps(CHAT | fields).encode())


def parse_text(**fields: object) -> CompletionBody:
    return CompletionBody.parse(json.dumps({"model": "tiny", "prompt": "Hi"} | fields).encode())


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": "tiny"', b"\xff\xfe", b'{"model": "\xff"}', b'{"model": "\\ud800"}', b"[" * 100_000],
)
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="no valid JSON"):
        ChatCompletionBody.parse(body)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="expected an object"):
        ChatCompletionBody.parse(body)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("temperature", "hot", "temperature"),
        ("temperature", -0.1, "temperature"),
        ("temperature", 2.1, "temperature"),
        ("temperature", float("nan"), "temperature"),
        ("temperature", float("inf"), "temperature"),
        ("temperature", True, "temperature"),
        ("top_p", 0, "top_p"),
        ("top_p", 1.1, "top_p"),
        ("top_k", -2, "top_k"),
        ("top_k", 1.0, "top_k"),
        ("min_p", -0.5, "min_p"),
        ("presence_penalty", 3, "presence_penalty"),
        ("frequency_penalty", -3, "frequency_penalty"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("max_tokens", "5", "max_tokens"),
        ("max_completion_tokens", 0, "max_completion_tokens"),
        ("min_tokens", -1, "min_tokens"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("seed", 2**64, "seed"),
        ("seed", 10**400, "seed"),
        ("seed", 1.5, "seed"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("logit_bias", [5], "logit_bias"),
        ("logit_bias", {"five": 1}, "logit_bias"),
        ("logit_bias", {"-5": 1}, "logit_bias"),
        ("logit_bias", {"5": 101}, "logit_bias[5]"),
        ("logit_bias", {"5": "1"}, "logit_bias[5]"),
        ("logit_bias", {str(token): 1 for token in range(2000)}, "logit_bias"),
        ("allowed_token_ids", [], "allowed_token_ids"),
        ("allowed_token_ids", ["5"], "allowed_token_ids[0]"),
        ("bad_words", "x", "bad_words"),
        ("bad_words", ["x", ""], "bad_words[1]"),
        ("prompt_logprobs", -1, "prompt_logprobs"),
        ("truncate_prompt_tokens", -2, "truncate_prompt_tokens"),
        ("truncation_side", "middle", "truncation_side"),
        ("service_tier", "gold", "service_tier"),
        ("stop", ["x"] * 10_000, "stop"),
        ("stop", [""], "stop[0]"),
        ("stop", "", "stop[0]"),
        ("stop", ["a", 1], "stop[1]"),
        ("stop", 5, "stop"),
        ("stop_token_ids", ["a"], "stop_token_ids[0]"),
        ("model", 5, "model"),
        ("messages", [], "messages"),
        ("messages", "Hi", "messages"),
        ("messages", [5], "messages[0]"),
        ("messages", [{"role": "king", "content": "Hi"}], "messages[0].role"),
        ("messages", [{"role": "user"}], "messages[0].content"),
        ("messages", [{"role": "user", "content": None}], "messages[0].content"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content"),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(field: str, value: object, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat(**{field: value})
    assert caught.value.param == param
    assert param in caught.value.message
    assert len(caught.value.message) < 300


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ChatCompletionBody.parse(b'{"messages": [{"role": "user", "content": "Hi"}]}')
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{}]),
        ("modalities", ["text", "audio"]),
        ("return_prompt_text", True),
        ("web_search_options", {}),
        ("suffix", "x"),
        ("use_beam_search", True),
        ("logprob_token_ids", [5]),
        ("prompt_embeds", "AAAA"),
        ("repetition_detection", {"max_pattern_size": 3}),
    ],
)
def test_a_field_that_would_change_the_output_and_is_not_served_is_refused(field: str, value: object) -> None:
    for parse in (parse_chat, parse_text):
        with pytest.raises(InvalidRequestError) as caught:
            parse(**{field: value})
        assert caught.value.param == field


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": None, "response_format": None, "logprobs": None, "temperature": None, "stop": None, "n": None},
        {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False, "logit_bias": {}},
        {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": False},
        {"echo": False, "suffix": "", "best_of": 2, "n": 2},
        {"no_such_field": 5},
    ],
)
def test_fields_that_change_nothing_are_accepted(fields: dict[str, object]) -> None:
    assert parse_chat(**fields).messages
    assert parse_text(**fields).prompts == ["Hi"]


def test_whole_numbers_do_for_fractions() -> None:
    assert parse_chat(temperature=1).temperature == 1.0


def test_content_parts_are_joined_by_lines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert parse_chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "one\ntwo"


def test_an_assistant_may_have_said_nothing() -> None:
    messages = [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "user", "content": "Hi"}]
    first = parse_chat(messages=messages).messages[0]
    assert first.content == ""
    assert first.model_dump()["tool_calls"] == [{"id": "1"}]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hi", ["Hi"]),
        (["Hi", "Ho"], ["Hi", "Ho"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["Hi", [3]], ["Hi", [3]]),
    ],
)
def test_prompts_come_in_four_shapes(prompt: object, prompts: list[object]) -> None:
    assert parse_text(prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", [[], [[]], 5, [1, "a"], [True], [1.5], {"a": 1}, [[1], [True]]])
def test_a_prompt_of_another_shape_is_refused(prompt: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_text(prompt=prompt)
    assert caught.value.param == "prompt"
