"""The routes under /v1/responses."""

import time
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response

from gateway.completions.completion import Completion
from gateway.context import Gateway, check_model, gateway_of, json_response, key_of
from gateway.http.connection import WholeResponse, read_body
from gateway.http.openapi import documented
from gateway.responses.body import ResponseBody
from gateway.responses.events import ResponseEvents
from gateway.responses.items import Item
from gateway.responses.resource import ResponseEvent, ResponseResource, StoredResponse
from gateway.responses.service import Draft
from gateway.responses.streaming import LiveStream, ReplayStream
from shared.errors import InvalidRequestError, NotFoundError

router = APIRouter()

Limit = Annotated[int, Query(ge=1, le=100)]
StartingAfter = Annotated[int | None, Query(ge=0, lt=2**63)]


class DeletedResponse(msgspec.Struct, frozen=True):
    """What is left of a response."""

    id: str
    object: str = "response"
    deleted: bool = True


class ItemList(msgspec.Struct, frozen=True):
    """A page of items."""

    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class InputTokens(msgspec.Struct, frozen=True):
    """How many there would be."""

    input_tokens: int
    object: str = "response.input_tokens"


@router.post("/responses")
@documented(body=ResponseBody, answer=ResponseResource, event=ResponseEvent)
async def create_response(request: Request) -> Response:
    """Answer a conversation, and keep the answer."""
    gateway = gateway_of(request)
    data = await read_body(request, gateway.settings.max_body_bytes)
    body = ResponseBody.parse(data)
    check_model(gateway, body.model)
    body.salt_prefix(key_of(request).salt)
    await gateway.completions.check_room(gateway.monitor.status)
    draft = await gateway.responses.draft(body)
    if body.background:
        return await _in_background(gateway, draft, data)
    completion = await gateway.responses.start(draft.submission._replace(api_key_id=key_of(request).name))
    if body.stream:
        return LiveStream(gateway.responses, draft.stored, completion)

    async def render(completion: Completion) -> Response:
        stored = await _collect(gateway, draft, completion)
        await gateway.responses.keep(stored)
        return json_response(stored.response)

    return WholeResponse(completion, render)


@router.post("/responses/input_tokens")
@documented(body=ResponseBody, answer=InputTokens)
async def count_input_tokens(request: Request) -> Response:
    """Count the tokens of a prompt without answering it."""
    gateway = gateway_of(request)
    body = ResponseBody.parse(await read_body(request, gateway.settings.max_body_bytes))
    check_model(gateway, body.model)
    return json_response(InputTokens(await gateway.responses.num_input_tokens(body)))


async def _in_background(gateway: Gateway, draft: Draft, data: bytes) -> Response:
    claim, stored = await gateway.responses.enqueue(draft, data)
    await gateway.response_jobs.offer(claim)
    if draft.body.stream:
        return ReplayStream(gateway.responses, stored.response.id, start=0)
    return json_response(stored.response)


async def _collect(gateway: Gateway, draft: Draft, completion: Completion) -> StoredResponse:
    (output,) = await completion.collect()
    events = ResponseEvents(draft.stored.response)
    events.push(gateway.responses.piece(output))
    events.end(output.finish_reason, completion.usage, now_s=int(time.time()))
    return msgspec.structs.replace(draft.stored, response=events.response)


@router.get("/responses/{response_id}")
@documented(answer=ResponseResource, event=ResponseEvent)
async def get_response(
    request: Request, response_id: str, *, stream: bool = False, starting_after: StartingAfter = None
) -> Response:
    """A response as it is now, or the events of a background one after the one with a number."""
    service = gateway_of(request).responses
    stored = await service.find(response_id)
    if not stream:
        return json_response(stored.response)
    if not stored.response.background:
        raise InvalidRequestError(
            "This response cannot be streamed: it was not created with 'background'", param="stream"
        )
    return ReplayStream(service, response_id, start=0 if starting_after is None else starting_after + 1)


@router.delete("/responses/{response_id}")
@documented(answer=DeletedResponse)
async def delete_response(request: Request, response_id: str) -> Response:
    """Forget a response, and end it if it is being made."""
    await gateway_of(request).responses.delete(response_id)
    return json_response(DeletedResponse(response_id))


@router.post("/responses/{response_id}/cancel")
@documented(answer=ResponseResource)
async def cancel_response(request: Request, response_id: str) -> Response:
    """End a background response."""
    return json_response(await gateway_of(request).responses.cancel(response_id))


@router.get("/responses/{response_id}/input_items")
@documented(answer=ItemList)
async def list_input_items(
    request: Request,
    response_id: str,
    *,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> Response:
    """The conversation that a response answers, page by page."""
    stored = await gateway_of(request).responses.find(response_id)
    items = stored.items if order == "asc" else stored.items[::-1]
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise NotFoundError(f"'after': there is no item {after!r} in {response_id!r}", param="after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return json_response(ItemList(page, first, last, has_more=len(items) > limit))
