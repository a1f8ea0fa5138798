import asyncio

import pytest

from loadtest.client import OpenAIClient
from loadtest.http_connection import HttpClient
from loadtest.record import RequestRecord
from loadtest.settings import Target
from shared.errors import ConfigurationError
from tests.loadtest.conftest import STREAM, chunk, event, scripted_server, text_event

DONE = chunk(b"data: [DONE]\n\n") + chunk(b"")


async def ask(target: Target, **sampling: object) -> RequestRecord:
    client = OpenAIClient(target)
    try:
        return await complete(client, **sampling)
    finally:
        client.close()


async def complete(client: OpenAIClient, **sampling: object) -> RequestRecord:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return await client.complete(messages, model="m", max_tokens=5, num_prompt_tokens=2, sampling=sampling, due_s=0.0)


def writes(*pieces: bytes, closes: bool = False):
    async def script(_server: object, _body: object, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if closes:
            writer.close()

    return script


async def test_completions_get_the_conversation_as_one_text() -> None:
    async with scripted_server() as server:
        record = await ask(server.target, temperature=0, stream=True)

    assert record.text == "hello"
    assert record.error is None
    assert server.bodies == [
        {
            "model": "m",
            "prompt": "ab",
            "max_tokens": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
        }
    ]


async def test_chats_get_it_as_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    async with scripted_server() as server:
        await ask(Target(port=server.port, backend="openai-chat", header={"X-Team": "blue"}))

    (body,), (head,) = server.bodies, server.heads
    assert [message["content"] for message in body["messages"]] == ["a", "b"]
    assert body["max_completion_tokens"] == 5
    assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "X-Team: blue\r\n" in head
    assert "Authorization: Bearer secret\r\n" in head


async def test_tokens_are_counted_by_the_server_else_by_chunks() -> None:
    usage = event({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 30}})
    texts = STREAM + chunk(text_event("a")) + chunk(text_event("b"))
    async with scripted_server(writes(texts, chunk(usage), DONE)) as server:
        told = await ask(server.target)
    async with scripted_server(writes(texts, DONE)) as server:
        counted = await ask(server.target)

    assert (told.num_prompt_tokens, told.num_output_tokens) == (20, 30)
    assert (counted.num_prompt_tokens, counted.num_output_tokens) == (2, 2)
    assert 0 < counted.ttft_s <= counted.e2el_s


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nbusy", "HTTP 429: busy"),
        (STREAM + chunk(text_event("a")), "ConnectionError: the server closed the connection before the end"),
        (STREAM + chunk(text_event("a")) + chunk(b""), "the stream ended before its answer did"),
        (STREAM + DONE, "the stream held no token"),
        (STREAM + chunk(b"data: {\n\n"), "DecodeError: Input data was truncated"),
        (STREAM + chunk(event({"error": {"message": "x"}})) + DONE, "the stream ended with an error: {"),
        (b"SMTP ready\r\n\r\n", "ConnectionError: the answer is no HTTP/1.1: "),
        (b"", "ConnectionError: the server closed the connection before the end"),
    ],
)
async def test_what_goes_wrong_is_in_the_record(answer: bytes, error: str) -> None:
    async with scripted_server(writes(answer, closes=True)) as server:
        record = await ask(server.target)

    assert record.error is not None
    assert record.error.startswith(error)


async def test_a_server_that_is_not_there_is_an_error_of_the_request() -> None:
    async with scripted_server() as server:
        target = server.target

    assert (await ask(target)).error.startswith("ConnectionRefusedError: ")


async def test_a_body_may_end_with_its_connection() -> None:
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + text_event("a") + b"data: [DONE]\n\n"
    async with scripted_server(writes(answer, closes=True)) as server:
        record = await ask(server.target)

    assert (record.text, record.error) == ("a", None)


async def test_connections_are_used_again_but_not_after_a_failure() -> None:
    async with scripted_server() as server:
        client = OpenAIClient(server.target)
        for _ in range(3):
            assert (await complete(client)).error is None
        assert server.num_connections == 1
        server.script = writes(STREAM + chunk(b"data: {\n\n"))
        assert (await complete(client)).error is not None
        server.script = writes(STREAM + chunk(text_event("a")) + DONE)
        assert (await complete(client)).error is None
        assert server.num_connections == 2
        client.close()


async def test_cancelling_a_request_hangs_up() -> None:
    here, gone = asyncio.Event(), asyncio.Event()

    async def wait_for_the_end(_server: object, _body: object, writer: asyncio.StreamWriter) -> None:
        here.set()
        writer.write(STREAM)
        while not writer.is_closing():
            writer.write(chunk(b": still here\n\n"))
            await asyncio.sleep(0.005)
        gone.set()

    async with scripted_server(wait_for_the_end) as server:
        task = asyncio.create_task(ask(server.target))
        await here.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await gone.wait()


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://host:0x"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(ConfigurationError, match="--base-url"):
        HttpClient(address, insecure=False)


async def test_an_address_may_have_a_path() -> None:
    async with scripted_server() as server:
        await ask(Target(base_url=f"http://127.0.0.1:{server.port}/proxy/"))

    assert server.heads[0].startswith("POST /proxy/v1/completions HTTP/1.1\r\n")
