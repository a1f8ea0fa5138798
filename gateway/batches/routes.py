"""The routes under /v1/batches."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gateway.batches.batch_object import BatchBody, BatchObject
from gateway.batches.service import BatchPage
from gateway.context import gateway_of, json_response
from gateway.http.connection import read_body
from gateway.http.openapi import documented

router = APIRouter()


@router.post("/batches")
@documented(body=BatchBody, answer=BatchObject)
async def create_batch(request: Request) -> Response:
    """Begin to answer the requests of a file."""
    gateway = gateway_of(request)
    body = BatchBody.parse(await read_body(request, gateway.settings.max_body_bytes))
    claim, batch = await gateway.batches.create(body)
    await gateway.batch_jobs.offer(claim)
    return json_response(batch)


@router.get("/batches")
@documented(answer=BatchPage)
async def list_batches(
    request: Request, *, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Response:
    """The batches that are kept, newest first, page by page."""
    return json_response(await gateway_of(request).batches.page(after=after, limit=limit))


@router.get("/batches/{batch_id}")
@documented(answer=BatchObject)
async def get_batch(request: Request, batch_id: str) -> Response:
    """A batch as it is now."""
    return json_response(await gateway_of(request).batches.find(batch_id))


@router.post("/batches/{batch_id}/cancel")
@documented(answer=BatchObject)
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Stop a batch. What has been answered is still written."""
    gateway = gateway_of(request)
    claim, batch = await gateway.batches.cancel(batch_id)
    if claim is not None:
        await gateway.batch_jobs.offer(claim)
    return json_response(batch)
