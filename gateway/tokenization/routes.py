"""The routes /tokenize and /detokenize. They want an API key, if there are any: they compute, and show the template."""

import asyncio
from typing import Final

from fastapi import APIRouter, Request, Response

from gateway.chat.conversation import Conversation
from gateway.context import Gateway, check_model, gateway_of, json_response
from gateway.http.connection import read_body
from gateway.http.openapi import documented
from gateway.tokenization.body import DetokenizeBody, Detokenized, TokenizeBody, Tokenized

router = APIRouter()

_INLINE_TOKENS: Final = 4096
"""More are put together in a thread: about a millisecond of the event loop."""


@router.post("/tokenize")
@documented(body=TokenizeBody, answer=Tokenized)
async def tokenize(request: Request) -> Response:
    """The tokens of a text or a conversation."""
    gateway = gateway_of(request)
    body = TokenizeBody.parse(await read_body(request, gateway.settings.max_body_bytes)).root
    _check_model(gateway, body.model)
    prompts = gateway.submissions.prompts
    if isinstance(body, Conversation):
        token_ids = await prompts.conversation(body)
    else:
        token_ids = await prompts.text(body.prompt, add_special_tokens=body.add_special_tokens)
    strings = [prompts.tokenizer.token_string(token) for token in token_ids] if body.return_token_strs else None
    return json_response(Tokenized(len(token_ids), gateway.max_model_len(), token_ids, strings))


@router.post("/detokenize")
@documented(body=DetokenizeBody, answer=Detokenized)
async def detokenize(request: Request) -> Response:
    """The text of tokens."""
    gateway = gateway_of(request)
    body = DetokenizeBody.parse(await read_body(request, gateway.settings.max_body_bytes))
    _check_model(gateway, body.model)
    prompts = gateway.submissions.prompts
    prompts.check_ids(body.tokens, "tokens")
    if len(body.tokens) <= _INLINE_TOKENS:
        return json_response(Detokenized(prompts.tokenizer.decode(body.tokens, shows_special=True)))
    text = await asyncio.to_thread(prompts.tokenizer.decode, body.tokens, shows_special=True)
    return json_response(Detokenized(text))


def _check_model(gateway: Gateway, name: str | None) -> None:
    if name is not None:
        check_model(gateway, name)
