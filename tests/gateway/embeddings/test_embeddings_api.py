"""/v1/embeddings through the official client."""

import base64

import numpy as np
import openai
import pytest

from gateway.embeddings.vectors import finished
from gateway.tokenizers.tokenizer import Tokenizer
from gpu_worker.fake_embedding import FAKE_HIDDEN_SIZE, fake_embedding
from shared.sampling import Pooling
from tests.gateway.conftest import Running, running_gateway, says


def client(gateway: Running) -> openai.AsyncOpenAI:
    """Not strict: the client itself asks for base64, and then finds that to be no list of numbers."""
    return openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=0, timeout=20)


def expected(text: str, pooling: Pooling = Pooling.LAST) -> np.ndarray:
    vector = np.frombuffer(fake_embedding(list(text.encode()), pooling), "<f4")
    return vector / np.linalg.norm(vector)


async def test_texts_become_vectors_of_length_one(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway, client(gateway) as api:
        strict = api.copy(_extra_kwargs={"_strict_response_validation": True})
        made = await strict.embeddings.create(model="tiny", input="Hi", encoding_format="float")
        (found,) = made.data
        np.testing.assert_allclose(found.embedding, expected("Hi"), atol=1e-6)
        assert np.linalg.norm(found.embedding) == pytest.approx(1, abs=1e-6)
        assert (made.usage.prompt_tokens, made.usage.total_tokens) == (2, 2)
        packed = await api.embeddings.create(model="tiny", input="Hi")  # the client asks for base64, and decodes it
        np.testing.assert_allclose(packed.data[0].embedding, expected("Hi"), atol=1e-6)


@pytest.mark.parametrize("given", [["one", "two"], [[*b"one"], [*b"two"]]])
async def test_inputs_may_be_many_texts_or_many_lists_of_tokens(byte_tokenizer: Tokenizer, given: list) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway, client(gateway) as api:
        made = await api.embeddings.create(model="tiny", input=given)
        assert [found.index for found in made.data] == [0, 1]
        for found, text in zip(made.data, ("one", "two"), strict=True):
            np.testing.assert_allclose(found.embedding, expected(text), atol=1e-6)
        assert made.usage.prompt_tokens == 6


async def test_more_inputs_than_fit_at_once_keep_their_order(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says(""), max_num_queued_reqs=140) as gateway, client(gateway) as api:
        texts = [f"text {place}" for place in range(150)]
        made = await api.embeddings.create(model="tiny", input=texts)
        for found, text in zip(made.data, texts, strict=True):
            np.testing.assert_allclose(found.embedding, expected(text), atol=1e-6)


async def test_a_list_of_tokens_is_one_input(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway, client(gateway) as api:
        made = await api.embeddings.create(model="tiny", input=[*b"Hi"])
        np.testing.assert_allclose(made.data[0].embedding, expected("Hi"), atol=1e-6)


async def test_the_pooling_is_the_requests_or_else_the_servers(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says(""), pooling="mean") as gateway, client(gateway) as api:
        made = await api.embeddings.create(model="tiny", input="Hi")
        np.testing.assert_allclose(made.data[0].embedding, expected("Hi", Pooling.MEAN), atol=1e-6)
        made = await api.embeddings.create(model="tiny", input="Hi", extra_body={"pooling": "last"})
        np.testing.assert_allclose(made.data[0].embedding, expected("Hi", Pooling.LAST), atol=1e-6)


async def test_a_shortened_vector_has_length_one_again(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway, client(gateway) as api:
        made = await api.embeddings.create(model="tiny", input="Hi", dimensions=4)
        short = expected("Hi")[:4]
        np.testing.assert_allclose(made.data[0].embedding, short / np.linalg.norm(short), atol=1e-6)


def test_the_zero_vector_has_no_length() -> None:
    assert finished(bytes(8), None, "float") == [0.0, 0.0]
    assert finished(bytes(8), None, "base64") == base64.b64encode(bytes(8)).decode()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": [70_000]}, "input"),
        ({"input": "x" * 300}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"dimensions": FAKE_HIDDEN_SIZE + 1}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"pooling": "cls"}, "pooling"),
    ],
)
async def test_what_is_wrong_is_named(byte_tokenizer: Tokenizer, fields: dict, param: str) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway:
        response = await gateway.http.post("/v1/embeddings", json={"model": "tiny", "input": "Hi"} | fields)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param
