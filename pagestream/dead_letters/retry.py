"""Computes a request that was given up once more, with this process as its gateway."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from gateway.streaming.streams import TokenRouter
from shared.bus import HEARTBEAT_INTERVAL_S, GatewayBus
from shared.errors import PagestreamError
from shared.ids import RequestId
from shared.messages import Cancel, Submit
from shared.sampling import FinishCode

_MAX_REQUESTS: Final = 2**31
"""What was accepted once is not refused because others wait."""


class RetryError(PagestreamError):
    """It failed again."""


async def compute_again(bus: GatewayBus, request: Submit) -> list[list[int]]:
    """The output tokens of each choice.

    Raises:
        RetryError: the request was given up once more, or failed otherwise.
    """
    router = TokenRouter(bus, time.monotonic)
    async with _alive(bus, router):
        stream = router.open(request.sampling.n)
        again = msgspec.structs.replace(
            request,
            request_id=RequestId(f"{request.request_id}-retry-{uuid.uuid4().hex[:8]}"),
            gateway_id=bus.gateway_id,
            handle=stream.first_handle,
            arrived_ms=time.time_ns() // 1_000_000,
            deadline_ms=0,
        )
        outputs: list[list[int]] = [[] for _ in stream.choices]
        try:
            await bus.submit(again, max_requests=_MAX_REQUESTS)
            while not all(choice.is_finished for choice in stream.choices):
                await stream.wait()
                for delta in stream.take():
                    outputs[delta.choice] += delta.tokens
                    if delta.finish is FinishCode.ERROR:
                        raise RetryError(delta.fault.message if delta.fault else "the request could not be finished")
        except BaseException:
            router.cancel(Cancel(request_id=again.request_id, reason="retry failed"))
            raise
        finally:
            router.close(stream)
    return outputs


@contextlib.asynccontextmanager
async def _alive(bus: GatewayBus, router: TokenRouter) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            await bus.heartbeat()
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    await bus.heartbeat()
    tasks = [asyncio.create_task(router.run()), asyncio.create_task(beat())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
