"""/v1/batches through the official client: what becomes of lines, whatever happens meanwhile."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from openai.types import Batch

from gateway.batches import batch_object, work
from gateway.batches.lines import BATCH_PRIORITY
from gateway.settings import GatewaySettings
from gateway.storage.archives import Archives
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import ClaimLostError
from shared.memory_bus import MemoryBus
from tests.gateway.conftest import EOS, Running, eventually, running_gateway, says
from tests.gateway.scripted_pool import Answer

CHAT = "/v1/chat/completions"


def chat_line(custom_id: str, **fields: object) -> dict:
    body = {"model": "tiny", "messages": [{"role": "user", "content": custom_id}]} | fields
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


@asynccontextmanager
async def serving(
    tokenizer: Tokenizer,
    answer: Answer,
    bus: MemoryBus | None = None,
    archives: Archives | None = None,
    **settings: object,
) -> AsyncIterator[tuple[Running, openai.AsyncOpenAI]]:
    options = {"api_key": "sesame", "max_retries": 0, "timeout": 20, "_strict_response_validation": True}
    async with (
        running_gateway(tokenizer, answer, bus, archives, **settings) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", **options) as api,
    ):
        yield gateway, api


async def begin(api: openai.AsyncOpenAI, lines: list[dict], endpoint: str = CHAT, **fields: object) -> Batch:
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    file = await api.files.create(file=("in.jsonl", content), purpose="batch")
    return await api.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields)


async def ended(api: openai.AsyncOpenAI, batch: Batch) -> Batch:
    async def is_over() -> bool:
        return (await api.batches.retrieve(batch.id)).status in {"completed", "failed", "expired", "cancelled"}

    await eventually(is_over, timeout_s=15)
    return await api.batches.retrieve(batch.id)


async def read(api: openai.AsyncOpenAI, file_id: str | None) -> dict[str, dict]:
    assert file_id is not None
    lines = [json.loads(line) for line in (await api.files.content(file_id)).text.splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines)
    return by_id


def waits_after(num_lines: int, released: asyncio.Event) -> Answer:
    """Answers the first lines, and the others once the test says so."""
    seen: list[str] = []

    def answer(submit: object, _choice: int, position: int) -> int | None:
        if submit.request_id not in seen:
            seen.append(submit.request_id)
        if seen.index(submit.request_id) >= num_lines and not released.is_set():
            return None
        return [ord("y"), EOS][position]

    return answer


async def test_every_line_is_answered_in_its_file(byte_tokenizer: Tokenizer) -> None:
    async with serving(byte_tokenizer, says("yes"), api_keys=("sesame",)) as (gateway, api):
        lines = [chat_line(f"line {i}") for i in range(50)]
        lines += [
            chat_line("too hot", temperature=9),
            chat_line("streamed", stream=True),
            chat_line("other", model="x"),
        ]
        batch = await begin(api, lines, metadata={"of": "mine"})
        assert batch.status == "validating"
        done = await ended(api, batch)
        assert done.status == "completed"
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (53, 50, 3)
        assert done.metadata == {"of": "mine"}
        assert done.usage is not None
        assert done.usage.output_tokens == 50 * 4
        answers = await read(api, done.output_file_id)
        assert set(answers) == {f"line {i}" for i in range(50)}
        for line in answers.values():
            assert line["response"]["status_code"] == 200
            assert line["response"]["body"]["choices"][0]["message"]["content"] == "yes"
        failures = await read(api, done.error_file_id)
        assert {name: line["response"]["status_code"] for name, line in failures.items()} == {
            "too hot": 400, "streamed": 400, "other": 404,
        }  # fmt: skip
        assert failures["too hot"]["response"]["body"]["error"]["param"] == "temperature"
        assert {submit.priority for submit in gateway.pool.submits} == {BATCH_PRIORITY}
        assert [b.id for b in (await api.batches.list()).data] == [batch.id]
        outputs = (await api.files.list(purpose="batch_output")).data
        assert {file.id for file in outputs} == {done.output_file_id, done.error_file_id}


@pytest.mark.parametrize(
    ("endpoint", "body", "text_of"),
    [
        ("/v1/completions", {"prompt": "Hi"}, lambda answer: answer["choices"][0]["text"]),
        ("/v1/responses", {"input": "Hi"}, lambda answer: answer["output"][0]["content"][0]["text"]),
    ],
)
async def test_other_endpoints_are_served_too(
    byte_tokenizer: Tokenizer, endpoint: str, body: dict, text_of: object
) -> None:
    async with serving(byte_tokenizer, says("yes")) as (_, api):
        line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "tiny"} | body}
        done = await ended(api, await begin(api, [line], endpoint))
        answers = await read(api, done.output_file_id)
        assert text_of(answers["a"]["response"]["body"]) == "yes"
        assert done.usage is not None
        assert done.usage.input_tokens > 0


async def test_a_batch_with_faults_is_not_begun(byte_tokenizer: Tokenizer) -> None:
    async with serving(byte_tokenizer, says("yes")) as (gateway, api):
        lines = [chat_line("a"), chat_line("a"), chat_line("b") | {"url": "/v1/completions"}]
        done = await ended(api, await begin(api, lines))
        assert done.status == "failed"
        assert done.errors is not None
        assert [(fault.code, fault.line) for fault in done.errors.data] == [
            ("duplicate_custom_id", 2), ("invalid_url", 3),
        ]  # fmt: skip
        assert not gateway.pool.submits
        blank = await api.files.create(file=("in.jsonl", b"\n \n"), purpose="batch")
        batch = await api.batches.create(input_file_id=blank.id, endpoint=CHAT, completion_window="24h")
        done = await ended(api, batch)
        assert done.errors is not None
        assert [fault.code for fault in done.errors.data] == ["empty_file"]


async def test_a_cancelled_batch_keeps_what_was_answered(byte_tokenizer: Tokenizer) -> None:
    async with serving(byte_tokenizer, waits_after(3, asyncio.Event())) as (gateway, api):
        batch = await begin(api, [chat_line(f"line {i}") for i in range(100)])
        await eventually(lambda: has_completed(api, batch, 3))
        cancelling = await api.batches.cancel(batch.id)
        assert cancelling.status == "cancelling"
        done = await ended(api, batch)
        assert done.status == "cancelled"
        assert done.cancelled_at is not None
        assert len(await read(api, done.output_file_id)) == 3
        num_open = len(gateway.pool.submits) - 3
        assert 0 < num_open <= 32
        await eventually(lambda: len(gateway.pool.cancels) >= num_open)
        with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
            await api.batches.cancel(batch.id)


async def has_completed(api: openai.AsyncOpenAI, batch: Batch, count: int) -> bool:
    return (await api.batches.retrieve(batch.id)).request_counts.completed == count


async def test_another_gateway_goes_on_and_no_line_is_written_twice(byte_tokenizer: Tokenizer) -> None:
    bus, archives = MemoryBus(), Archives.in_memory(GatewaySettings(pool="p", model="tiny"))
    lines = [chat_line(f"line {i}") for i in range(60)]
    async with serving(byte_tokenizer, waits_after(5, asyncio.Event()), bus, archives) as (gateway, api):
        batch = await begin(api, lines)
        await eventually(lambda: has_completed(api, batch, 5))
    async with serving(byte_tokenizer, says("no"), bus, archives) as (gateway, api):
        done = await ended(api, batch)
        assert done.status == "completed"
        answers = await read(api, done.output_file_id)
        texts = [line["response"]["body"]["choices"][0]["message"]["content"] for line in answers.values()]
        assert len(answers) == 60
        assert (texts.count("y"), texts.count("no")) == (5, 55)
        assert len(gateway.pool.submits) == 55


async def test_whoever_lost_the_claim_adds_nothing(byte_tokenizer: Tokenizer) -> None:
    archives = Archives.in_memory(GatewaySettings(pool="p", model="tiny"))
    released = asyncio.Event()
    async with serving(byte_tokenizer, waits_after(2, released), archives=archives) as (_, api):
        batch = await begin(api, [chat_line(f"line {i}") for i in range(4)])
        await eventually(lambda: has_completed(api, batch, 2))
        stolen = await archives.batches.seize(batch.id)
        assert stolen is not None
        released.set()
        await asyncio.sleep(0.3)
        assert (await api.batches.retrieve(batch.id)).request_counts.completed == 2
        assert len(await archives.batches.parts(batch.id, 0)) == 2
        await archives.batches.hand_back(stolen)
        done = await ended(api, batch)
        assert done.request_counts is not None
        assert done.request_counts.completed == 4
        assert await archives.batches.parts(batch.id, 0) == []
        with pytest.raises(ClaimLostError):
            await archives.batches.update(stolen, document=b"")


async def test_lines_whose_time_has_run_out_are_named_in_the_error_file(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_object, "COMPLETION_WINDOW_S", 2)
    async with serving(byte_tokenizer, waits_after(2, asyncio.Event())) as (_, api):
        done = await ended(api, await begin(api, [chat_line(f"line {i}") for i in range(5)]))
        assert done.status == "expired"
        assert done.expired_at is not None
        assert done.expired_at <= time.time()
        assert len(await read(api, done.output_file_id)) == 2
        late = await read(api, done.error_file_id)
        assert {line["error"]["code"] for line in late.values()} == {"batch_expired"}
        assert len(late) == 3
        assert done.request_counts is not None
        assert done.request_counts.failed == 3


async def test_a_full_pool_only_makes_a_batch_slower(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_RETRY_S", 0.02)
    async with serving(byte_tokenizer, says("yes"), max_num_queued_reqs=2) as (_, api):
        done = await ended(api, await begin(api, [chat_line(f"line {i}") for i in range(12)]))
        assert done.request_counts is not None
        assert done.request_counts.completed == 12


async def test_batches_are_listed_newest_first_page_by_page(byte_tokenizer: Tokenizer) -> None:
    async with serving(byte_tokenizer, says("yes")) as (_, api):
        made = [(await begin(api, [chat_line("a")])).id for _ in range(5)]
        assert [batch.id async for batch in await api.batches.list(limit=2)] == made[::-1]
        with pytest.raises(openai.NotFoundError):
            await api.batches.list(after="batch_none")
        with pytest.raises(openai.NotFoundError):
            await api.batches.retrieve("batch_none")
        with pytest.raises(openai.NotFoundError):
            await api.batches.cancel("batch_none")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
async def test_what_is_wrong_is_named(byte_tokenizer: Tokenizer, fields: dict, param: str) -> None:
    async with serving(byte_tokenizer, says("yes")) as (_, api):
        file = await api.files.create(file=("in.jsonl", b"{}"), purpose="batch")
        body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | fields
        with pytest.raises(openai.BadRequestError) as refused:
            await api.batches.create(**body)
        assert refused.value.param == param
