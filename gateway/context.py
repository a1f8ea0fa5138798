"""What every route finds in its request's state, and the checks that come before its work."""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypedDict, cast

import msgspec
from fastapi import Request, Response

from gateway.answering import Answering
from gateway.batches.service import BatchService
from gateway.completions.completion import CompletionStarter
from gateway.completions.submission_builder import SubmissionBuilder
from gateway.embeddings.service import EmbeddingService
from gateway.files.shelf import FileShelf
from gateway.monitoring.pool_monitor import PoolMonitor
from gateway.responses.service import ResponseService
from gateway.settings import GatewaySettings
from gateway.storage.jobs import JobRunner
from shared.errors import AuthenticationError, ModelNotFoundError


@dataclass(frozen=True)
class Gateway:
    """The collaborators of the routes, made once per application."""

    settings: GatewaySettings
    answering: Answering
    submissions: SubmissionBuilder
    completions: CompletionStarter
    monitor: PoolMonitor
    responses: ResponseService
    response_jobs: JobRunner
    embeddings: EmbeddingService
    files: FileShelf
    batches: BatchService
    batch_jobs: JobRunner
    max_model_len: Callable[[], int | None]
    started_s: int


class LifespanState(TypedDict):
    """What the lifespan gives to every request's state."""

    gateway: Gateway


def gateway_of(request: Request) -> Gateway:
    """The gateway that this request came to."""
    return cast("Gateway", request.state.gateway)


def check_api_key(request: Request) -> None:
    """Let in who has a key, if keys are wanted.

    Raises:
        AuthenticationError: there is none, or not one of ours.
    """
    keys = gateway_of(request).settings.api_keys
    if not keys:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    matches = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    if scheme.lower() != "bearer" or not any(matches):
        raise AuthenticationError(
            "Incorrect API key provided; send one of this server's keys as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
        )


def owner_of(request: Request) -> str:
    """A name for whoever has this request's API key, which does not tell it."""
    _, _, given = request.headers.get("authorization", "").partition(" ")
    keys = gateway_of(request).settings.api_keys
    return blake2b(given.strip().encode(), digest_size=8).hexdigest() if keys else ""


def check_model(gateway: Gateway, name: str) -> None:
    """See that a model is served here.

    Raises:
        ModelNotFoundError: it is not.
    """
    check_model_name(gateway.settings.model_names, name)


def check_model_name(names: Sequence[str], name: str) -> None:
    """See that a model is one of those that are served.

    Raises:
        ModelNotFoundError: it is not.
    """
    if name not in names:
        served = ", ".join(repr(known) for known in names)
        raise ModelNotFoundError(
            f"The model {name!r} does not exist; served here: {served}", param="model", code="model_not_found"
        )


def json_response(body: object, status: int = 200) -> Response:
    """A value that msgspec encodes, as a response."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")
