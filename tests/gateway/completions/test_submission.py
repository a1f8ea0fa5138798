import json
from collections.abc import Callable

import pytest

from gateway.completions.submission import Submission
from gateway.completions.submission_builder import SubmissionBuilder
from gateway.protocol.openai_requests import ChatCompletionBody, CompletionBody
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import InvalidRequestError, ServiceUnavailableError
from shared.ids import GatewayId, Handle
from shared.packing import unpack_u32
from tests.gateway.conftest import planner

CONTEXT = 100
Submit = Callable[..., "Submission"]


@pytest.fixture
def builder(byte_tokenizer: Tokenizer) -> SubmissionBuilder:
    return SubmissionBuilder(byte_tokenizer, lambda: CONTEXT, planner(byte_tokenizer))


async def text(builder: SubmissionBuilder, **fields: object) -> Submission:
    body = json.dumps({"model": "tiny", "prompt": "Hi"} | fields).encode()
    return await builder.text(CompletionBody.parse(body), "cmpl-1")


async def chat(builder: SubmissionBuilder, **fields: object) -> Submission:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]} | fields).encode()
    return await builder.chat(ChatCompletionBody.parse(body), "chatcmpl-1")


async def test_a_chat_may_fill_the_context_and_a_completion_gets_sixteen_tokens(builder: SubmissionBuilder) -> None:
    (prompt,) = (await chat(builder)).prompts
    assert prompt.sampling.max_tokens == CONTEXT - len(prompt.token_ids)
    assert (await text(builder)).prompts[0].sampling.max_tokens == 16
    assert (await text(builder, prompt=[5] * 95)).prompts[0].sampling.max_tokens == 5


async def test_the_newer_name_of_the_limit_wins(builder: SubmissionBuilder) -> None:
    assert (await chat(builder, max_tokens=3, max_completion_tokens=4)).prompts[0].sampling.max_tokens == 4


@pytest.mark.parametrize(
    "fields",
    [{"prompt": [5] * 100}, {"prompt": [5] * 500}, {"prompt": [5] * 90, "max_tokens": 11}, {"prompt": "a" * 5000}],
)
async def test_what_does_not_fit_the_context_is_refused_as_openai_does(
    builder: SubmissionBuilder, fields: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequestError, match="maximum context length is 100 tokens") as caught:
        await text(builder, **fields)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


async def test_what_just_fits_is_accepted(builder: SubmissionBuilder) -> None:
    assert (await text(builder, prompt=[5] * 99)).prompts[0].sampling.max_tokens == 1
    assert (await text(builder, prompt=[5] * 90, max_tokens=10)).prompts[0].sampling.max_tokens == 10


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [258]}, "prompt"),
        ({"prompt": [[0], [-1]]}, "prompt"),
        ({"prompt": [2**70]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a"] * 10, "n": 128}, "prompt"),
        ({"stop_token_ids": [258]}, "stop_token_ids"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ],
)
async def test_values_beyond_the_model_are_refused_with_their_field(
    builder: SubmissionBuilder, fields: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await text(builder, **fields)
    assert caught.value.param == param


async def test_the_end_of_sequence_stops_unless_it_is_to_be_ignored(builder: SubmissionBuilder) -> None:
    assert (await text(builder, stop_token_ids=[5, 257])).prompts[0].sampling.stop_token_ids == (5, 257)
    assert (await text(builder, stop_token_ids=[5], ignore_eos=True)).prompts[0].sampling.stop_token_ids == (5,)


async def test_seeds_are_taken_modulo_two_to_the_64_and_drawn_where_there_is_none(builder: SubmissionBuilder) -> None:
    assert (await text(builder, seed=-1)).prompts[0].sampling.seed == 2**64 - 1
    drawn = {(await text(builder)).prompts[0].sampling.seed for _ in range(4)}
    assert len(drawn) == 4


async def test_every_prompt_is_a_request_with_consecutive_handles(builder: SubmissionBuilder) -> None:
    messages = (await text(builder, prompt=["a", [98, 99]], n=3)).messages(GatewayId("g"), Handle(10))
    assert [message.handle for message in messages] == [10, 13]
    assert [message.request_id for message in messages] == ["cmpl-1-0", "cmpl-1-1"]
    assert [list(unpack_u32(message.prompt)) for message in messages] == [[97], [98, 99]]
    assert [message.sampling.n for message in messages] == [3, 3]


async def test_a_single_prompt_keeps_the_clients_id(builder: SubmissionBuilder) -> None:
    assert [m.request_id for m in (await chat(builder)).messages(GatewayId("g"), Handle(0))] == ["chatcmpl-1"]


async def test_developers_are_the_system(builder: SubmissionBuilder, byte_tokenizer: Tokenizer) -> None:
    submission = await chat(builder, messages=[{"role": "developer", "content": "Hi"}])
    assert byte_tokenizer.decode(submission.prompts[0].token_ids) == "system\nHi\nassistant\n"


async def test_nothing_is_promised_while_the_context_is_unknown(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(ServiceUnavailableError, match="context length"):
        await text(SubmissionBuilder(byte_tokenizer, lambda: None, planner(byte_tokenizer)))
