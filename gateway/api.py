"""The routes. Each reads a body, starts a completion and chooses the response; the work is done elsewhere."""

from http import HTTPStatus
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.answering import CHAT, TEXT, VERSION, Caller, Endpoint
from gateway.batches.routes import router as batches
from gateway.context import Gateway, check_admin, check_model, gateway_of, json_response, key_of
from gateway.embeddings.routes import router as embeddings
from gateway.files.routes import router as files
from gateway.http.connection import read_body
from gateway.http.openapi import documented
from gateway.monitoring.usage import router as usage
from gateway.protocol.openai_requests import ChatCompletionBody, CompletionBody
from gateway.protocol.openai_responses import (
    ChatChoice,
    ChatChunkChoice,
    CompletionResponse,
    ModelCard,
    ModelList,
    TextChoice,
)
from gateway.responses.routes import router as responses
from gateway.resumption.event_id import EventId, parse_counts
from gateway.tokenization.routes import router as tokenization


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a process or its pool is."""

    status: str
    reason: str = ""


class AdminLoad(msgspec.Struct, frozen=True):
    """Calls under way, by owner."""

    calls: dict[str, int]


class Version(msgspec.Struct, frozen=True):
    """Which release this is."""

    version: str


public = APIRouter()
v1 = APIRouter(prefix="/v1")
for router in (responses, embeddings, files, batches, usage):
    v1.include_router(router)
public.include_router(tokenization)


@v1.post("/chat/completions")
@documented(body=ChatCompletionBody, answer=CompletionResponse[ChatChoice], event=CompletionResponse[ChatChunkChoice])
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    gateway = gateway_of(request)
    return await _answer(gateway, CHAT, request)


@v1.post("/completions")
@documented(body=CompletionBody, answer=CompletionResponse[TextChoice], event=CompletionResponse[TextChoice])
async def create_completion(request: Request) -> Response:
    """Continue one or several texts."""
    gateway = gateway_of(request)
    return await _answer(gateway, TEXT, request)


@v1.get("/streams/{stream_id}")
@documented(event=CompletionResponse[ChatChunkChoice])
async def resume_stream(
    request: Request, stream_id: str, start: Annotated[str | None, Query(alias="from")] = None
) -> Response:
    """Go on with a stream after its first events; how many is said by `from`, or by a Last-Event-ID."""
    gateway = gateway_of(request)
    caller = Caller.of(request, key_of(request))
    seen = parse_counts(start, "from") if start else ()
    if caller.last_event_id is not None:
        stream_id, seen = EventId.parse(caller.last_event_id)
    return await gateway.answering.resume(stream_id, seen, caller)


async def _answer(gateway: Gateway, endpoint: Endpoint, request: Request) -> Response:
    data = await read_body(request, gateway.settings.max_body_bytes)
    return await gateway.answering.answer(endpoint, data, Caller.of(request, key_of(request)))


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


@v1.get("/admin/load", dependencies=[Depends(check_admin)])
@documented(answer=AdminLoad)
async def get_load(request: Request) -> Response:
    """The calls under way at this gateway, by the owners of their API keys."""
    return json_response(AdminLoad(gateway_of(request).admission.calls))


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
    return json_response(Version(VERSION))


@public.get("/metrics")
@documented(content=(CONTENT_TYPE_LATEST, "In the words of Prometheus."))
async def get_metrics(request: Request) -> Response:
    """For Prometheus."""
    gateway = gateway_of(request)
    return Response(gateway.completions.metrics.render(gateway.monitor.status), media_type=CONTENT_TYPE_LATEST)
