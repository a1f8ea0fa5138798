"""`GET /v1/usage`: what the requests of an API key have used, in the shape of OpenAI's usage pages."""

import time
from typing import Annotated, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response

from gateway.context import gateway_of, json_response, key_of
from gateway.http.openapi import documented
from shared.errors import InvalidRequestError, NotFoundError
from shared.ids import RequestId
from shared.usage import HOUR_S, USAGE_TTL_S, HourlyUsage, Usage, sum_of

router = APIRouter()

_HOURS: Final = {"1h": 1, "1d": 24}
_DEFAULT_SPAN_S: Final = 7 * 24 * 3600


class UsageResult(msgspec.Struct, frozen=True):
    """Sums of the keys of one owner.

    Attributes:
        computed_tokens: Positions computed for the first time, of prompts and outputs.
        recomputed_tokens: Positions computed once more, after a preemption or a move.
        api_key_id: The name of the key's owner; null where no key is wanted.
    """

    input_tokens: int
    input_cached_tokens: int
    output_tokens: int
    computed_tokens: int
    recomputed_tokens: int
    num_model_requests: int
    api_key_id: str | None
    object: Literal["organization.usage.completions.result"] = "organization.usage.completions.result"


class UsageBucket(msgspec.Struct, frozen=True):
    """One hour or day (UTC): requests that ended in it. Nothing of those without any."""

    start_time: int
    end_time: int
    results: list[UsageResult]
    object: Literal["bucket"] = "bucket"


class UsagePage(msgspec.Struct, frozen=True):
    """All of the time that was asked for."""

    data: list[UsageBucket]
    has_more: bool = False
    next_page: str | None = None
    object: Literal["page"] = "page"


class RequestUsage(msgspec.Struct, frozen=True):
    """One request."""

    request_id: str
    input_tokens: int
    input_cached_tokens: int
    output_tokens: int
    computed_tokens: int
    recomputed_tokens: int
    object: Literal["usage"] = "usage"


@router.get("/usage")
@documented(answer=UsagePage)
async def get_usage(
    request: Request,
    start_time: Annotated[int | None, Query(ge=0, lt=2**40)] = None,
    end_time: Annotated[int | None, Query(ge=0, lt=2**40)] = None,
    bucket_width: Literal["1h", "1d"] = "1d",
) -> Response:
    """What this key's owner, or to an administrator everyone, used from `start_time` to `end_time` (unix seconds)."""
    now_s = int(time.time())
    end_s = now_s + 1 if end_time is None else min(end_time, now_s + 1)
    start_s = max(end_s - _DEFAULT_SPAN_S if start_time is None else start_time, now_s - USAGE_TTL_S)
    if start_time is not None and end_time is not None and start_time >= end_time:
        raise InvalidRequestError(f"'end_time' is {end_time}, not after 'start_time' {start_time}", param="end_time")
    hours = range(start_s // HOUR_S, -(-end_s // HOUR_S))
    lines = await gateway_of(request).completions.bus.usage(hours)
    key = key_of(request)
    shown = [line for line in lines if key.admin or line.api_key_id == key.name]
    return json_response(UsagePage(buckets(shown, hours_per_bucket=_HOURS[bucket_width])))


@router.get("/usage/requests/{request_id}")
@documented(answer=RequestUsage)
async def get_request_usage(request: Request, request_id: str) -> Response:
    """What one request of this API key has used; known once it has ended, for the latest 10,000 requests."""
    record = await gateway_of(request).completions.bus.usage_of(RequestId(request_id))
    key = key_of(request)
    if record is None or not (key.admin or record.api_key_id == key.name):
        raise NotFoundError(
            f"no usage of a request {request_id!r} is known; it has not ended, or ended long ago", param="request_id"
        )
    return json_response(RequestUsage(request_id, *_counts(record.usage)))


def buckets(lines: list[HourlyUsage], *, hours_per_bucket: int) -> list[UsageBucket]:
    """Sum hours up by key, in order."""
    found: dict[int, dict[str, list[HourlyUsage]]] = {}
    for line in lines:
        start = line.hour - line.hour % hours_per_bucket
        found.setdefault(start, {}).setdefault(line.api_key_id, []).append(line)
    return [
        UsageBucket(start * HOUR_S, (start + hours_per_bucket) * HOUR_S, [_result(*item) for item in by_key.items()])
        for start, by_key in sorted(found.items())
    ]


def _result(api_key_id: str, lines: list[HourlyUsage]) -> UsageResult:
    usage = sum_of(line.usage for line in lines)
    return UsageResult(*_counts(usage), sum(line.num_requests for line in lines), api_key_id or None)


def _counts(usage: Usage) -> tuple[int, int, int, int, int]:
    """In the order of the fields above."""
    return (
        usage.num_prompt_tokens,
        usage.num_cached_tokens,
        usage.num_delivered_tokens,
        usage.num_computed_tokens,
        usage.num_recomputed_tokens,
    )
