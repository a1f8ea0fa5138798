"""Every error as an HTTP response with OpenAI's error object. No traceback leaves the process."""

import logging
from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway.protocol.body_parsing import show
from gateway.protocol.openai_responses import ErrorBody, ErrorDetail
from shared.errors import (
    BusUnavailableError,
    InvalidRequestError,
    RequestError,
    ServiceUnavailableError,
)
from shared.messages import Fault

_logger = logging.getLogger(__name__)


class GenerationError(RequestError):
    """The pool took the request and could not finish it."""

    status = 500
    error_type = "server_error"


def error_of_fault(fault: Fault | None) -> RequestError:
    """What a choice's terminal fault means to the client."""
    if fault is None:
        return GenerationError("the request could not be finished")
    error = GenerationError(fault.message, code=fault.code or None)
    error.status = fault.status
    if fault.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        error.error_type = RequestError.error_type
    return error


def as_request_error(error: Exception) -> RequestError:
    """What any exception means to the client; one that nobody foresaw is logged, and says nothing of its inside."""
    match error:
        case RequestError():
            return error
        case BusUnavailableError():
            return ServiceUnavailableError("the message bus does not answer; try again", code="bus_unavailable")
        case RequestValidationError():
            return _of_parameter(error)
        case HTTPException():
            known = RequestError(f"{error.detail}")
            known.status = error.status_code
            return known
        case _:
            _logger.error("unexpected error", exc_info=error)
            return GenerationError("internal error; the server's log says more")


def _of_parameter(error: RequestValidationError) -> RequestError:
    """The first fault of a query or a path."""
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return InvalidRequestError(f"'{param}': {first['msg']}, got {show(first.get('input'))}", param=param)


def error_json(error: RequestError) -> bytes:
    """OpenAI's error object."""
    return msgspec.json.encode(ErrorBody(ErrorDetail(error.message, error.error_type, error.param, error.code)))


def error_response(error: Exception) -> Response:
    """The response that ends a failed call."""
    known = as_request_error(error)
    headers = {"retry-after": str(known.retry_after_s)} if known.retry_after_s is not None else {}
    if known.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, HTTPException):
        headers |= dict(error.headers or {})
    return Response(error_json(known), known.status, headers, media_type="application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Make every route of an application answer errors this way."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error.detail = f"{error.detail}: {request.method} {request.url.path}"
        return error_response(error)

    for kind in (RequestError, BusUnavailableError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
