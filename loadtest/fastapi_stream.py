"""What `make bench-gateway` is compared with: the usual way to stream tokens, with no model, bus or text behind it.

FastAPI's `StreamingResponse` over a queue per stream, and `json.dumps` of a chunk for each token; a timer stands for
the steps. Has as much of `/metrics` as the measurement reads.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse


class Streams:
    """The open ones, and the tokens that they got."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._queues: set[asyncio.Queue[str]] = set()
        self.num_tokens = 0

    async def run(self) -> None:
        """Give every stream a token in each step."""
        while True:
            await asyncio.sleep(self._step_s)
            for queue in self._queues:
                queue.put_nowait(" token")
            self.num_tokens += len(self._queues)

    async def events(self) -> AsyncIterator[str]:
        """One stream, until it is closed."""
        queue = asyncio.Queue[str]()
        self._queues.add(queue)
        try:
            while True:
                yield f"data: {json.dumps(chunk(await queue.get()))}\n\n"
        finally:
            self._queues.discard(queue)


def chunk(text: str) -> dict[str, object]:
    """As our gateway sends it."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, "logprobs": None}
    return {
        "id": f"chatcmpl-{0:032x}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "demo",
        "choices": [choice],
        "system_fingerprint": "fp_0123456789",
    }


def create_app(streams: Streams) -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stepping = asyncio.create_task(streams.run())
        yield
        stepping.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        lines = (
            f"vllm:generation_tokens_total {streams.num_tokens}",
            f"process_cpu_seconds_total {time.process_time()}",
        )
        return Response("\n".join(lines), media_type="text/plain")

    @app.post("/v1/chat/completions")
    async def chat() -> StreamingResponse:
        return StreamingResponse(streams.events(), media_type="text/event-stream")

    return app


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=7.0)
    arguments = parser.parse_args()
    app = create_app(Streams(arguments.step_ms / 1e3))
    # Its streams have no end of their own.
    uvicorn.run(app, port=arguments.port, access_log=False, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
