"""What every route finds in its request's state, and the checks that come before its work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

import msgspec
from fastapi import Request, Response

from gateway.access.admission import Admission
from gateway.access.keyring import ApiKey
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
from shared.errors import ForbiddenError, ModelNotFoundError


@dataclass(frozen=True)
class Gateway:
    """The collaborators of the routes, made once per application."""

    settings: GatewaySettings
    admission: Admission
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


def key_of(request: Request) -> ApiKey:
    """The API key that this request came with."""
    return cast("ApiKey", request.state.api_key)


def check_admin(request: Request) -> None:
    """See that it is an administrator's.

    Raises:
        ForbiddenError: it is not.
    """
    if not key_of(request).admin:
        raise ForbiddenError("this is for API keys with 'admin = true'", code="admin_only")


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
