"""The routes. Each reads a body, starts a completion and chooses the response; the work is done elsewhere."""

import functools
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Final, TypedDict, cast

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.chat_shape import ChatShape
from gateway.completion import Completion, CompletionStarter
from gateway.connection import EventStreamResponse, WholeResponse, read_body
from gateway.fingerprint import fingerprint
from gateway.openai_requests import ChatCompletionBody, CompletionBody, GenerationBody
from gateway.openai_responses import ModelCard, ModelList
from gateway.pool_monitor import PoolMonitor
from gateway.settings import GatewaySettings
from gateway.shape import Envelope, Shape
from gateway.sse import EventWriter
from gateway.submission import Submission
from gateway.submission_builder import SubmissionBuilder
from gateway.text_shape import TextShape
from gateway.token_names import TokenNames
from shared.errors import AuthenticationError, ModelNotFoundError

_VERSION: Final = version("pagestream")
_SERVICE_TIER: Final = "default"
"""There is no other: whoever asks for one is told."""


@dataclass(frozen=True)
class Gateway:
    """The collaborators of the routes, made once per application."""

    settings: GatewaySettings
    submissions: SubmissionBuilder
    completions: CompletionStarter
    monitor: PoolMonitor
    max_model_len: Callable[[], int | None]
    started_s: int


class LifespanState(TypedDict):
    """What the lifespan gives to every request's state."""

    gateway: Gateway


def _gateway(request: Request) -> Gateway:
    return cast("Gateway", request.state.gateway)


def _check_api_key(request: Request) -> None:
    keys = _gateway(request).settings.api_keys
    if not keys:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    matches = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    if scheme.lower() != "bearer" or not any(matches):
        raise AuthenticationError(
            "Incorrect API key provided; send one of this server's keys as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
        )


public = APIRouter()
v1 = APIRouter(prefix="/v1", dependencies=[Depends(_check_api_key)])


@v1.post("/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    gateway = _gateway(request)
    body = ChatCompletionBody.parse(await read_body(request, gateway.settings.max_body_bytes))
    _check_model(gateway, body.model)
    submission = await gateway.submissions.chat(body, f"chatcmpl-{request.state.request_key}")
    return await _complete(gateway, body, submission, ChatShape)


@v1.post("/completions")
async def create_completion(request: Request) -> Response:
    """Continue one or several texts."""
    gateway = _gateway(request)
    body = CompletionBody.parse(await read_body(request, gateway.settings.max_body_bytes))
    _check_model(gateway, body.model)
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


def _check_model(gateway: Gateway, name: str) -> None:
    names = gateway.settings.model_names
    if name not in names:
        served = ", ".join(repr(known) for known in names)
        raise ModelNotFoundError(
            f"The model {name!r} does not exist; served here: {served}", param="model", code="model_not_found"
        )


@v1.get("/models")
async def list_models(request: Request) -> Response:
    """The names that may be asked for."""
    gateway = _gateway(request)
    cards = [_model_card(gateway, name) for name in gateway.settings.model_names]
    return _json(ModelList(cards))


@v1.get("/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    """One of them."""
    gateway = _gateway(request)
    _check_model(gateway, name)
    return _json(_model_card(gateway, name))


def _model_card(gateway: Gateway, name: str) -> ModelCard:
    return ModelCard(name, gateway.started_s, gateway.max_model_len())


@public.get("/health")
async def get_health(request: Request) -> Response:
    """200 if requests are being answered."""
    health = _gateway(request).monitor.health()
    if health.is_healthy:
        return _json({"status": "ok"})
    return _json({"status": "unavailable", "reason": health.fault}, HTTPStatus.SERVICE_UNAVAILABLE)


@public.get("/ping")
async def ping() -> Response:
    """200 if this process runs."""
    return _json({"status": "ok"})


@public.get("/version")
async def get_version() -> Response:
    """The product's version."""
    return _json({"version": _VERSION})


@public.get("/metrics")
async def get_metrics(request: Request) -> Response:
    """For Prometheus."""
    gateway = _gateway(request)
    return Response(gateway.completions.metrics.render(gateway.monitor.status), media_type=CONTENT_TYPE_LATEST)


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
