"""Clients that ask again when nobody takes their request, and go on where a stream broke off."""

import asyncio
import json

from loadtest.chaos.answer import Answer
from loadtest.chaos.load import Load
from loadtest.chaos.requests import RequestSource
from loadtest.chaos.scenario import Scenario
from tests.loadtest.conftest import STREAM, ScriptedServer, chunk, scripted_server

TOKENS = list(range(200, 206))


def event(place: int) -> bytes:
    choice = {"index": 0, "text": "x", "token_ids": [TOKENS[place]]}
    return f"id: cmpl-1:{place}\ndata: {json.dumps({'id': 'cmpl-1', 'choices': [choice]})}\n\n".encode()


async def ask(server: ScriptedServer) -> tuple[Load, Answer]:
    answers: list[Answer] = []
    source = RequestSource(Scenario(description="a"))
    load = Load(source, lambda: [f"http://127.0.0.1:{server.port}"], on_answer=answers.append, seed=0)
    await load.ask_all([source.make(0)], 3)
    (answer,) = answers
    return load, answer


async def test_a_stream_that_breaks_off_goes_on_after_its_last_whole_event() -> None:
    async def script(server: ScriptedServer, _body: dict, writer: asyncio.StreamWriter) -> None:
        head = server.heads[-1].lower()
        start = int(head.split("last-event-id: cmpl-1:")[1].split("\r\n")[0]) + 1 if "last-event-id" in head else 0
        writer.write(STREAM + b"".join(chunk(event(place)) for place in range(start, min(start + 2, 6))))
        if start + 2 < 6:
            writer.write(chunk(event(start + 2)[:20]))
            await writer.drain()
            writer.close()
        else:
            writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))
            await writer.drain()

    async with scripted_server(script) as server:
        load, answer = await ask(server)

    assert answer.choices[0].token_ids == TOKENS
    assert (answer.is_complete, answer.is_broken, load.num_resumed, load.num_refused) == (True, False, 2, 0)


async def test_a_refused_request_is_sent_again_and_a_stream_without_ids_ends_where_it_breaks() -> None:
    async def script(server: ScriptedServer, _body: dict, writer: asyncio.StreamWriter) -> None:
        if len(server.bodies) < 3:
            writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(STREAM + chunk(event(0).partition(b"\n")[2]))
            await writer.drain()
            writer.close()
        await writer.drain()

    async with scripted_server(script) as server:
        load, answer = await ask(server)

    assert server.bodies[0] == server.bodies[2]
    assert (load.num_refused, load.num_resumed, answer.is_broken) == (2, 0, True)
    assert answer.choices[0].token_ids == TOKENS[:1]
