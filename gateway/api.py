"""The routes. Each reads a body, starts a completion and chooses the response; the work is done elsewhere."""

import functools
import time
from http import HTTPStatus
from importlib.metadata import version
from typing import Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.batches.routes import router as batches
from gateway.completions.completion import Completion
from gateway.completions.submission import Submission
from gateway.context import Gateway, check_api_key, check_model, gateway_of, json_response
from gateway.embeddings.routes import router as embeddings
from gateway.files.routes import router as files
from gateway.http.connection import EventStreamResponse, WholeResponse, read_body
from gateway.http.openapi import documented
from gateway.http.sse import EventWriter
from gateway.protocol.openai_requests import ChatCompletionBody, CompletionBody, GenerationBody
from gateway.protocol.openai_responses import (
    ChatChoice,
    ChatChunkChoice,
    CompletionResponse,
    ModelCard,
    ModelList,
    TextChoice,
)
from gateway.responses.routes import router as responses
from gateway.shapes.chat_shape import ChatShape
from gateway.shapes.fingerprint import fingerprint
from gateway.shapes.shape import Envelope, Shape
from gateway.shapes.text_shape import TextShape
from gateway.shapes.token_names import TokenNames
from gateway.tokenization.routes import router as tokenization

_VERSION: Final = version("pagestream")
_SERVICE_TIER: Final = "default"
"""There is no other: whoever asks for one is told."""


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a process or its pool is."""

    status: str
    reason: str = ""


class Version(msgspec.Struct, frozen=True):
    """Which release this is."""

    version: str


public = APIRouter()
v1 = APIRouter(prefix="/v1", dependencies=[Depends(check_api_key)])
for router in (responses, embeddings, files, batches):
    v1.include_router(router)
public.include_router(tokenization)


@v1.post("/chat/completions")
@documented(body=ChatCompletionBody, answer=CompletionResponse[ChatChoice], event=CompletionResponse[ChatChunkChoice])
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    gateway = gateway_of(request)
    body = ChatCompletionBody.parse(await read_body(request, gateway.settings.max_body_bytes))
    check_model(gateway, body.model)
    submission = await gateway.submissions.chat(body, f"chatcmpl-{request.state.request_key}")
    return await _complete(gateway, body, submission, ChatShape)


@v1.post("/completions")
@documented(body=CompletionBody, answer=CompletionResponse[TextChoice], event=CompletionResponse[TextChoice])
async def create_completion(request: Request) -> Response:
    """Continue one or several texts."""
    gateway = gateway_of(request)
    body = CompletionBody.parse(await read_body(request, gateway.settings.max_body_bytes))
    check_model(gateway, body.model)
    submission = await gateway.submissions.text(body, f"cmpl-{request.state.request_key}")
    return await _complete(gateway, body, submission, TextShape)


async def _complete(
    gateway: Gateway, body: GenerationBody, submission: Submission, kind: type[ChatShape | TextShape]
) -> Response:
    envelope = Envelope(
        submission.completion_id,
        int(time.time()),
        body.model,
        fingerprint(_VERSION, gateway.monitor.status),
        body.service_tier and _SERVICE_TIER,
    )
    names = TokenNames(gateway.completions.vocabulary, as_ids=body.return_tokens_as_token_ids)
    shape = kind(envelope, names, body.detail)
    completion = await gateway.completions.start(submission)
    if body.stream:
        return EventStreamResponse(completion, EventWriter(shape, completion.num_choices))
    return WholeResponse(completion, functools.partial(_render, shape))


async def _render(shape: Shape, completion: Completion) -> Response:
    outputs = await completion.collect()
    return Response(shape.response(outputs, completion.prompts, completion.usage), media_type="application/json")


@v1.get("/models")
@documented(answer=ModelList)
async def list_models(request: Request) -> Response:
    """The names that may be asked for."""
    gateway = gateway_of(request)
    cards = [_model_card(gateway, name) for name in gateway.settings.model_names]
    return json_response(ModelList(cards))


@v1.get("/models/{name:path}")
@documented(answer=ModelCard)
async def get_model(request: Request, name: str) -> Response:
    """One of them."""
    gateway = gateway_of(request)
    check_model(gateway, name)
    return json_response(_model_card(gateway, name))


def _model_card(gateway: Gateway, name: str) -> ModelCard:
    return ModelCard(name, gateway.started_s, gateway.max_model_len())


@public.get("/health")
@documented(answer=Health, statuses={503: "Nobody would be answered."})
async def get_health(request: Request) -> Response:
    """200 if requests are being answered."""
    health = gateway_of(request).monitor.health()
    if health.is_healthy:
        return json_response(Health("ok"))
    return json_response(Health("unavailable", health.fault or ""), HTTPStatus.SERVICE_UNAVAILABLE)


@public.get("/ping")
@documented(answer=Health)
async def ping() -> Response:
    """200 if this process runs."""
    return json_response(Health("ok"))


@public.get("/version")
@documented(answer=Version)
async def get_version() -> Response:
    """The product's version."""
    return json_response(Version(_VERSION))


@public.get("/metrics")
@documented(content=(CONTENT_TYPE_LATEST, "In the words of Prometheus."))
async def get_metrics(request: Request) -> Response:
    """For Prometheus."""
    gateway = gateway_of(request)
    return Response(gateway.completions.metrics.render(gateway.monitor.status), media_type=CONTENT_TYPE_LATEST)
