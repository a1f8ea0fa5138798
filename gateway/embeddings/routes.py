"""The route /v1/embeddings."""

from fastapi import APIRouter, Request, Response

from gateway.context import check_model, gateway_of, json_response, key_of
from gateway.embeddings.body import EmbeddingBody, EmbeddingList
from gateway.http.connection import WorkResponse, read_body
from gateway.http.openapi import documented

router = APIRouter()


@router.post("/embeddings")
@documented(body=EmbeddingBody, answer=EmbeddingList)
async def create_embeddings(request: Request) -> Response:
    """Turn texts into vectors."""
    gateway = gateway_of(request)
    body = EmbeddingBody.parse(await read_body(request, gateway.settings.max_body_bytes))
    check_model(gateway, body.model)
    body.cache_salt = key_of(request).salt(body.cache_salt)
    await gateway.completions.check_room(gateway.monitor.status)

    async def work() -> Response:
        name, api_key_id = f"embd-{request.state.request_key}", key_of(request).name
        return json_response(await gateway.embeddings.embed(body, name, api_key_id=api_key_id))

    return WorkResponse(work)
