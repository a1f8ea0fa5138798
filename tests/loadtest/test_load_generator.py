import asyncio
import time

import pytest

from loadtest.client import OpenAIClient
from loadtest.conversation import Conversation, Turn
from loadtest.load_generator import LoadGenerator
from loadtest.record import RequestRecord
from tests.loadtest.conftest import STREAM, ScriptedServer, chunk, scripted_server, text_event

DONE = chunk(b"data: [DONE]\n\n") + chunk(b"")


async def load(
    server: ScriptedServer,
    conversations: list[Conversation],
    arrival_times_s: list[float] | None = None,
    max_concurrency: int | None = None,
    **target: object,
) -> list[RequestRecord]:
    client = OpenAIClient(server.target)
    generator = LoadGenerator(client, model="m", sampling={}, max_concurrency=max_concurrency)
    try:
        return await generator.run(conversations, arrival_times_s or [0.0] * len(conversations))
    finally:
        client.close()


def questions(count: int) -> list[Conversation]:
    return [Conversation.of(f"question {index}", 2, 4) for index in range(count)]


def meet(count: int):
    """Answers once so many requests have come."""
    enough = asyncio.Event()

    async def script(server: ScriptedServer, _body: dict, writer: asyncio.StreamWriter) -> None:
        if len(server.bodies) >= count:
            enough.set()
        async with asyncio.timeout(5):
            await enough.wait()
        writer.write(STREAM + chunk(text_event("x")) + DONE)

    return script


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    async with scripted_server(meet(20)) as server:
        records = await load(server, questions(20))

    assert all(record.error is None for record in records)
    assert server.max_running == 20


async def test_a_closed_loop_keeps_its_bound_and_reaches_it() -> None:
    async with scripted_server(meet(4)) as server:
        records = await load(server, questions(12), max_concurrency=4)

    assert all(record.error is None for record in records)
    assert server.max_running == 4
    assert max(record.queue_time_s for record in records) > 0


async def test_requests_are_sent_when_they_are_due_and_not_before() -> None:
    times = [0.0, 0.05, 0.1, 0.1]
    async with scripted_server() as server:
        start_s = time.perf_counter()
        records = await load(server, questions(4), times)

    for record, arrival_s in zip(records, times, strict=True):
        assert record.due_s == pytest.approx(start_s + arrival_s, abs=0.02)
        assert record.started_s >= record.due_s


async def test_each_turn_is_sent_with_what_was_said_before_it() -> None:
    turns = tuple(Turn(f"{name}?", 2, 4) for name in "abc")
    async with scripted_server() as server:
        records = await load(server, [Conversation(turns)])

    assert [body["prompt"] for body in server.bodies] == ["a?", "a?hellob?", "a?hellob?helloc?"]
    assert [record.num_prompt_tokens for record in records] == [2, 5, 8]


async def test_after_a_failure_the_other_turns_fail_unsent() -> None:
    async def refuse(_server: object, _body: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")

    turns = tuple(Turn("?", 1, 4) for _ in range(3))
    async with scripted_server(refuse) as server:
        records = await load(server, [Conversation(turns)])

    assert len(server.bodies) == 1
    assert [record.error for record in records] == [
        "HTTP 500: ",
        "an earlier turn of its conversation failed",
        "an earlier turn of its conversation failed",
    ]


async def test_records_come_in_order_of_the_conversations() -> None:
    async def answer(_server: object, body: dict, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk(text_event(body["prompt"])) + DONE)

    async with scripted_server(answer) as server:
        records = await load(server, questions(10), max_concurrency=3)

    assert [record.text for record in records] == [f"question {index}" for index in range(10)]
