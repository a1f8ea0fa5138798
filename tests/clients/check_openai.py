"""The official client for Python, both kinds, with every response held to its types."""

import asyncio
import os

import openai
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
MESSAGES = [{"role": "user", "content": "Who are you?"}]
ASK = {"model": MODEL, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
OPTIONS = {"max_retries": 0, "_strict_response_validation": True}


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def check_sync() -> str:
    """Everything once; returns the chat's answer."""
    client = openai.OpenAI(**OPTIONS)
    chat = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2)
    text = chat.choices[0].message.content
    assert text
    assert "".join(token.token for token in chat.choices[0].logprobs.content) == text
    assert chat.usage.completion_tokens == 12
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text
    assert chunks[-1].usage.completion_tokens == 12
    bob = [{"role": "user", "content": "Bob is five years old."}]
    parsed = client.chat.completions.parse(model=MODEL, messages=bob, response_format=Person, max_tokens=100)
    assert isinstance(parsed.choices[0].message.parsed, Person)
    completion = client.completions.create(model=MODEL, prompt=["One", "Two"], n=2, max_tokens=3, echo=True)
    assert [choice.text[:3] for choice in completion.choices] == ["One", "One", "Two", "Two"]
    response = client.responses.create(model=MODEL, input="Who are you?", max_output_tokens=12, temperature=0)
    assert response.output_text == text
    assert client.responses.retrieve(response.id).output_text == text
    assert client.responses.input_items.list(response.id).data[0].content[0].text == "Who are you?"
    client.responses.delete(response.id)
    vectors = client.embeddings.create(model=MODEL, input=["one", "two"], dimensions=64, encoding_format="float")
    assert [len(vector.embedding) for vector in vectors.data] == [64, 64]
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    assert refused(client, {"temperature": 9}, openai.BadRequestError).param == "temperature"
    assert refused(client, {"model": "other"}, openai.NotFoundError).code == "model_not_found"
    return text


def refused(
    client: openai.OpenAI, wrong: dict[str, object], kind: type[openai.APIStatusError]
) -> openai.APIStatusError:
    """The error that a wrong field gets."""
    try:
        client.chat.completions.create(**(ASK | wrong))
    except kind as error:
        return error
    raise AssertionError(f"{wrong} was taken")


async def check_async(text: str) -> None:
    """Several at once, streamed and parsed."""
    async with openai.AsyncOpenAI(**OPTIONS) as client:

        async def streamed() -> str:
            stream = await client.chat.completions.create(**ASK, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def responded() -> str:
            made = await client.responses.create(
                model=MODEL, input="Who are you?", max_output_tokens=12, temperature=0, stream=True
            )
            events = [event async for event in made]
            assert [event.sequence_number for event in events] == list(range(len(events)))
            return events[-1].response.output_text

        assert await asyncio.gather(streamed(), streamed(), responded()) == [text] * 3


asyncio.run(check_async(check_sync()))
