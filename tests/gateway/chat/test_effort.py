"""How much to reason: what a request says, as the model's template reads it."""

import pytest

from shared.packing import unpack_u32
from tests.gateway.chats import tokenizer_with
from tests.gateway.conftest import CHAT_TEMPLATE, running_gateway, says
from tests.gateway.test_api import CHAT

SHOWN = "{{ reasoning_effort }}/{{ enable_thinking }}: " + CHAT_TEMPLATE
RESPONSE = {"model": "tiny", "input": "Hi"}


@pytest.mark.parametrize(
    ("path", "body", "shown"),
    [
        ("v1/chat/completions", CHAT, "/"),
        ("v1/chat/completions", CHAT | {"reasoning_effort": "low"}, "low/True"),
        ("v1/chat/completions", CHAT | {"reasoning_effort": "none"}, "none/False"),
        (
            "v1/chat/completions",
            CHAT | {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
            "high/False",
        ),
        ("v1/responses", RESPONSE | {"reasoning": {"effort": "minimal"}}, "minimal/True"),
    ],
)
async def test_the_template_is_told(path: str, body: dict, shown: str) -> None:
    async with running_gateway(tokenizer_with(SHOWN), says("ok")) as gateway:
        response = await gateway.http.post(f"/{path}", json=body)
        assert response.status_code == 200, response.text
        if path == "v1/responses":
            assert response.json()["reasoning"]["effort"] == body["reasoning"]["effort"]
        prompt = unpack_u32(gateway.pool.submits[0].prompt)
        expected = f"{shown}: ".encode()
        assert list(prompt[: len(expected)]) == list(expected)
