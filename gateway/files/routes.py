"""The routes under /v1/files."""

from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.types import Message

from gateway.context import gateway_of, json_response
from gateway.files.shelf import CHUNK_BYTES, MAX_TTL_S, MIN_TTL_S, FileObject, FilePage
from gateway.http.openapi import JsonSchema, documented
from shared.errors import InvalidRequestError, RequestTooLargeError

router = APIRouter()

_MAX_FIELDS: Final = 16
_MAX_FIELD_BYTES: Final = 4096
_FORM_BYTES: Final = 64 * 1024
"""What a form may have beside the file."""

_MAX_FILENAME: Final = 255

FORM: Final[JsonSchema] = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": MIN_TTL_S, "maximum": MAX_TTL_S},
    },
    "dependentRequired": {
        "expires_after[anchor]": ["expires_after[seconds]"],
        "expires_after[seconds]": ["expires_after[anchor]"],
    },
}
"""What an upload is made of, as a schema."""


class DeletedFile(msgspec.Struct, frozen=True):
    """What is left of a file."""

    id: str
    object: str = "file"
    deleted: bool = True


@router.post("/files")
@documented(form=FORM, answer=FileObject)
async def create_file(request: Request) -> Response:
    """Keep an uploaded file (multipart/form-data)."""
    gateway = gateway_of(request)
    bounded = _bounded(request, gateway.settings.max_file_bytes + _FORM_BYTES)
    async with bounded.form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES) as form:
        ttl_s = _ttl(form)
        upload = _upload(form)
        filename = (upload.filename or "file")[:_MAX_FILENAME]
        file = await gateway.files.add(filename, "batch", _chunks(upload), ttl_s=ttl_s)
    return json_response(file)


@router.get("/files")
@documented(answer=FilePage)
async def list_files(
    request: Request,
    *,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Response:
    """The files that are kept, page by page."""
    files = gateway_of(request).files
    page = await files.page(after=after, limit=limit, newest_first=order == "desc", purpose=purpose)
    return json_response(page)


@router.get("/files/{file_id}")
@documented(answer=FileObject)
async def get_file(request: Request, file_id: str) -> Response:
    """What is known of a file."""
    return json_response(await gateway_of(request).files.find(file_id))


@router.delete("/files/{file_id}")
@documented(answer=DeletedFile)
async def delete_file(request: Request, file_id: str) -> Response:
    """Forget a file."""
    await gateway_of(request).files.delete(file_id)
    return json_response(DeletedFile(file_id))


@router.get("/files/{file_id}/content")
@documented(content=("application/octet-stream", "The file."))
async def get_file_content(request: Request, file_id: str) -> Response:
    """A file, as it was uploaded or written."""
    files = gateway_of(request).files
    file = await files.find(file_id)
    return StreamingResponse(
        files.chunks(file_id), media_type="application/octet-stream", headers={"content-length": str(file.bytes)}
    )


def _bounded(request: Request, max_bytes: int) -> Request:
    """The request, of which no more is read than is allowed."""
    num_bytes = 0

    async def receive() -> Message:
        nonlocal num_bytes
        message = await request.receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise RequestTooLargeError(
                f"the body is larger than {max_bytes} bytes", param="file", code="file_too_large"
            )
        return message

    return Request(request.scope, receive)


def _upload(form: FormData) -> UploadFile:
    purpose = form.get("purpose")
    if purpose != "batch":
        raise InvalidRequestError(
            f"'purpose' must be 'batch', the only one that this server has a use for, got {purpose!r}", param="purpose"
        )
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise InvalidRequestError("'file' is missing: send it as multipart/form-data, with a name", param="file")
    return upload


def _ttl(form: FormData) -> int:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return MAX_TTL_S
    if anchor != "created_at":
        raise InvalidRequestError(
            f"'expires_after[anchor]' must be 'created_at', got {anchor!r}", param="expires_after[anchor]"
        )
    if not (isinstance(seconds, str) and seconds.isdecimal() and MIN_TTL_S <= int(seconds) <= MAX_TTL_S):
        raise InvalidRequestError(
            f"'expires_after[seconds]' must be a whole number from {MIN_TTL_S} to {MAX_TTL_S}, got {seconds!r}",
            param="expires_after[seconds]",
        )
    return int(seconds)


async def _chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    is_empty = True
    while chunk := await upload.read(CHUNK_BYTES):
        is_empty = False
        yield chunk
    if is_empty:
        raise InvalidRequestError("'file' is empty", param="file")
