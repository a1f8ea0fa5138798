"""The floor under `make bench-gateway`: nothing but the writes, the same event to every stream in each step.

Speaks as much HTTP as the measurement needs. What it costs, no gateway on this machine can do without.
"""

import argparse
import asyncio
import json
import time
from typing import Final, cast

import uvloop

from loadtest.fastapi_stream import chunk

_EVENT: Final = f"data: {json.dumps(chunk(' token'))}\n\n".encode()
_PIECE: Final = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_STREAM: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Streams:
    """The open ones, and the tokens that they got."""

    def __init__(self) -> None:
        self.transports: set[asyncio.Transport] = set()
        self.num_tokens = 0

    async def run(self, step_s: float) -> None:
        """Give every stream a token in each step."""
        while True:
            await asyncio.sleep(step_s)
            for transport in self.transports:
                transport.write(_PIECE)
            self.num_tokens += len(self.transports)

    def metrics(self) -> bytes:
        """What the measurement reads."""
        cpu_s = time.process_time()
        return f"vllm:generation_tokens_total {self.num_tokens}\nprocess_cpu_seconds_total {cpu_s}\n".encode()


class Connection(asyncio.Protocol):
    """One client: a POST opens a stream, anything else is answered at once."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        """A request, or the rest of one."""
        assert self._transport is not None
        if data.startswith(b"POST "):
            self._transport.write(_STREAM)
            self._streams.transports.add(self._transport)
        elif data.startswith(b"GET "):
            body = self._streams.metrics()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """A client has gone."""
        if self._transport is not None:
            self._streams.transports.discard(self._transport)


async def _serve(port: int, step_s: float) -> None:
    streams = Streams()
    async with await asyncio.get_running_loop().create_server(lambda: Connection(streams), "127.0.0.1", port):
        await streams.run(step_s)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=7.0)
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.step_ms / 1e3))


if __name__ == "__main__":
    main()
