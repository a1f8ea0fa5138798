"""`POST /v1/responses/input_tokens`: what a prompt takes, told without an answer."""

import openai
import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from tests.gateway.conftest import running_gateway, says
from tests.gateway.test_api import client


async def test_it_counts_what_a_response_says_it_used(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("one")) as gateway, client(gateway) as api:
        first = await api.responses.create(model="tiny", input="Hi", instructions="Be short.")
        for body in ({"input": "Hi", "instructions": "Be short."}, {"input": "And?", "previous_response_id": first.id}):
            counted = await api.responses.input_tokens.count(model="tiny", **body)
            made = await api.responses.create(model="tiny", **body)
            assert made.usage is not None
            assert counted.input_tokens == made.usage.input_tokens
        num_answered = len(gateway.pool.submits)
        long = await api.responses.input_tokens.count(model="tiny", input="x" * 5000)  # more than the context
        assert long.input_tokens > 5000
        assert len(gateway.pool.submits) == num_answered
        with pytest.raises(openai.NotFoundError):
            await api.responses.input_tokens.count(model="none", input="Hi")
